"""Measure one cell of the zones: a row per minibatch, a census per layer, and the record."""

import logging
from pathlib import Path

import pandas as pd
import torch

from nonsmooth import images, training
from nonsmooth.cells import ZoneCell
from nonsmooth.files import atomic, require_writable, write_json
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease
from nonsmooth.zones.run import measure_cell


def zones(
    cell: ZoneCell, train_path: str, settings: training.Settings, outputs: dict[str, str], workers: int = 0
) -> None:
    def log(row: dict) -> None:
        logging.info(
            "minibatch %d: %s, difference %.3g", row["minibatch"], row["class"] or "no replay", row["difference"]
        )

    settings = settings.on_this_machine()
    data = images.load(cell.dataset, cell.architecture, train_path, torch.device(settings.device), workers)
    run = measure_cell(cell, data, settings, on_minibatch=log)
    for name in ("minibatches", "layers"):
        with atomic(outputs[name]) as temporary:
            pd.DataFrame(getattr(run, name)).to_csv(temporary, index=False)
    write_json(Path(outputs["record"]), run.record)


if __name__ == "__main__":
    with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
        require_writable(snakemake.output.record)
        settings = training.Settings.of_job(snakemake.params.settings, snakemake.threads)
        zones(
            ZoneCell.from_dict(snakemake.params.cell),
            snakemake.input[0],
            settings,
            dict(snakemake.output.items()),
            workers=snakemake.threads - settings.threads,
        )
