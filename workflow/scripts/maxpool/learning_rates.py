"""The rates that searches found, as entries for `learning_rates` in a configuration, and the table of all trials."""

import pandas as pd
import yaml

from nonsmooth.cells import CONDITION, SETUP, TrainingCell
from nonsmooth.files import atomic, read_json, write_text
from nonsmooth.joblog import job_log


def gather(cells: list[TrainingCell], trials: list[str], chosen: list[str], outputs: dict[str, str]) -> None:
    tables, entries, known = [], ["learning_rates:"], set()
    for cell, trials_path, chosen_path in zip(cells, trials, chosen, strict=True):
        table = pd.read_csv(trials_path)
        found = read_json(chosen_path)
        tables.append(table.assign(**{name: getattr(cell, name) for name in CONDITION})[[*CONDITION, *table]])
        entry = {**dict(zip(SETUP, cell.setup, strict=True)), "value": found["learning_rate"]}
        line = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=float("inf")).strip()
        comment = f"held-out accuracy {found['accuracy']:.3f}"
        if (cell.rule, cell.relu_derivative) != ("native", 0):
            comment += f", {cell.rule}, relu {cell.relu_derivative:g}"
        # A configuration takes one per set-up: the others are there to choose from.
        entries.append(f"{'# ' if cell.setup in known else '  '}- {line}  # {comment}")
        known.add(cell.setup)
    with atomic(outputs["trials"]) as temporary:
        pd.concat(tables, ignore_index=True).to_csv(temporary, index=False)
    write_text(outputs["entries"], "\n".join(entries) + "\n")


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        gather(
            [TrainingCell.from_dict(cell) for cell in snakemake.params.cells],
            snakemake.input.trials,
            snakemake.input.chosen,
            dict(snakemake.output.items()),
        )
