"""What the profiles of Snakemake settings say, without a cluster; tests/cluster has one."""

import pytest
import yaml

from nonsmooth import leases

from .conftest import ROOT

# Of one machine.
NOT_FOR_CLUSTERS = {"cores", "resources"}
SLURM = ("--workflow-profile", "profiles/slurm")


def profile(name: str) -> dict:
    return yaml.safe_load((ROOT / f"profiles/{name}/config.yaml").read_text())


def test_on_a_cluster_the_settings_of_the_default_profile_hold():
    default = {key: value for key, value in profile("default").items() if key not in NOT_FOR_CLUSTERS}
    assert default.items() <= profile("slurm").items()


@pytest.mark.skipif(leases.visible_gpus(), reason="this machine has a GPU")
def test_a_machine_that_only_submits_needs_no_gpu(planning, tiny):
    config = planning.write_config(tiny | {"device": "auto"}, "auto.yaml")
    here = planning.snakemake("--configfile", config, "--dry-run").stdout
    assert "cells train on the CPU" in here
    cluster = planning.snakemake(*SLURM, "--configfile", config, "--dry-run").stdout
    assert "cells train on the CPU" not in cluster
