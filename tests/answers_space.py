RIGHT, WRONG = [], []
