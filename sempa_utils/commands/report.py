"""`report`: tables and pictures, written anew from the records."""

from sempa_utils.checks import InputError, write_whole


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("report", help="write the tables and pictures of the README from results/")
    command.set_defaults(run=run)


def run(options) -> None:
    """Write the tables of README and model cards, and the pictures, anew from the committed records."""
    from sempa_utils import records
    from sempa_utils.experiments import report

    if not records.committed_folder().is_dir():  # an installed kit brings no records
        raise InputError(
            "report writes the pages of the kit's repository; an installed kit has none. Run it in a clone."
        )
    root, recorded = records.committed_folder().parent, report.recorded_runs()
    for path in report.documents():
        text = report.written(path, recorded)
        with write_whole(path) as draft:
            draft.write_text(text, encoding="utf8")
        print(path.relative_to(root))
    for name, (figure, mark) in report.pictures().items():
        for ending in ("png", "svg"):
            path = records.committed_folder() / "figures" / f"{name}.{ending}"
            report.save_picture(figure, path, mark=mark)
            print(path.relative_to(root))
