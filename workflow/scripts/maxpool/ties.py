"""Find the tied window maxima of one image in a network's first pooling, at each precision."""

import numpy as np
import torch

from nonsmooth import images
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.ties import find_ties, initial_network, tie_counts


def ties(dataset: str, prepared: str, architecture: str, image: int, seed: int, precisions, outputs) -> None:
    data = images.load(dataset, architecture, prepared, torch.device("cpu"))
    pixels = next(data.subset(torch.tensor([image])).batches(1))[0][0]
    measured = {name: find_ties(pixels, initial_network(architecture, dataset, seed), name) for name in precisions}
    arrays = {f"{name}/{key}": array for name, found in measured.items() for key, array in found.items()}
    with atomic(outputs["arrays"]) as temporary:
        np.savez_compressed(temporary, image=pixels.numpy(), **arrays)
    with atomic(outputs["counts"]) as temporary:
        tie_counts(measured).to_csv(temporary, index=False)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        torch.set_num_threads(snakemake.threads)
        settings = snakemake.params.ties
        ties(
            settings["dataset"],
            snakemake.input[0],
            settings["architecture"],
            settings["image"],
            settings["seed"],
            settings["precisions"],
            dict(snakemake.output.items()),
        )
