"""Tables of the factorial experiment: what every program scored, and the effects of its parts."""

import pandas as pd

from nonsmooth.factorial import cells_table, effects_table
from nonsmooth.joblog import job_log
from nonsmooth.tables import write_csv

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        runs = pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=[""])
        write_csv(cells_table(runs), snakemake.output.cells)
        write_csv(effects_table(runs), snakemake.output.effects)
