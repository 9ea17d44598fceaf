"""Every figure of the kit, drawn from records and arrays, none from a model.

One file per question: `theory`, `training`, `space`, `scores`, `methods`, `analyses`, `generation`; `style`
holds the common look and `interactive` what moves in a live notebook.
"""
