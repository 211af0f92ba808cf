# Is it the Jacobian or the arithmetic? The programs between native and the published one, and how far its pooling is from a maximum.


if FACTORIAL_GROUPS:

    rule maxpool_factorial_tables:
        input:
            runs="results/{run}/maxpool/runs.csv",
            code=source("scripts/maxpool/factorial_tables.py")
            + library("factorial", "maxpool", "programs", "rules", "statistics"),
        output:
            cells="results/{run}/maxpool/factorial.csv",
            effects="results/{run}/maxpool/factorial_effects.csv",
        log:
            "logs/{run}/maxpool/factorial_tables.log",
        resources:
            mem_mb=1000,
            runtime=5,
        message:
            "Compute the effects of the parts of the published program"
        script:
            "../scripts/maxpool/factorial_tables.py"

    rule maxpool_factorial:
        input:
            runs="results/{run}/maxpool/runs.csv",
            code=program_plot_code("factorial", "factorial", "statistics"),
        output:
            **program_figure_files("factorial"),
        log:
            f"logs/{{run}}/maxpool/factorial/{GROUP_PATH}.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            group=factorial_group,
        message:
            "Draw the factorial experiment: {wildcards.architecture} on {wildcards.dataset}, {wildcards.optimizer}, {wildcards.precision}"
        script:
            "../scripts/maxpool/factorial.py"

    rule maxpool_factorial_effects:
        input:
            effects="results/{run}/maxpool/factorial_effects.csv",
            code=program_plot_code("factorial_effects", "factorial"),
        output:
            **program_figure_files("factorial_effects"),
        log:
            f"logs/{{run}}/maxpool/factorial_effects/{GROUP_PATH}.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            group=factorial_group,
        message:
            "Draw the effects of the parts of the published program: {wildcards.architecture} on {wildcards.dataset}, {wildcards.optimizer}, {wildcards.precision}"
        script:
            "../scripts/maxpool/factorial_effects.py"


if PROGRAM_GROUPS:

    rule maxpool_programs_by_beta:
        input:
            runs="results/{run}/maxpool/runs.csv",
            code=program_plot_code("programs_by_beta"),
        output:
            **program_figure_files("programs_by_beta"),
        log:
            f"logs/{{run}}/maxpool/programs_by_beta/{GROUP_PATH}.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            group=program_group,
        message:
            "Draw accuracy and divergence by program: {wildcards.architecture} on {wildcards.dataset}, {wildcards.optimizer}, {wildcards.precision}"
        script:
            "../scripts/maxpool/programs_by_beta.py"

    rule maxpool_max_activation:
        input:
            activations="results/{run}/maxpool/activations.csv",
            code=program_plot_code("max_activation", "precision"),
        output:
            **program_figure_files("max_activation"),
        log:
            f"logs/{{run}}/maxpool/max_activation/{GROUP_PATH}.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            group=program_group,
        message:
            "Draw the largest pooled values by program: {wildcards.architecture} on {wildcards.dataset}, {wildcards.optimizer}, {wildcards.precision}"
        script:
            "../scripts/maxpool/max_activation.py"


if POOLING_ERRORS:

    rule maxpool_pooling_errors:
        input:
            prepared(POOLING_ERRORS["dataset"], "train"),
            code=source("scripts/maxpool/pooling_errors.py") + library("pooling_errors"),
        output:
            "results/{run}/maxpool/pooling_errors.csv",
        log:
            "logs/{run}/maxpool/pooling_errors.log",
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            pooling_errors=POOLING_ERRORS,
            numerics_version=NUMERICS_VERSION,
        message:
            "Measure how far the published pooling is from a maximum"
        script:
            "../scripts/maxpool/pooling_errors.py"

    rule maxpool_pooling_error:
        input:
            errors="results/{run}/maxpool/pooling_errors.csv",
            code=source("scripts/maxpool/pooling_error.py", "lib/nonsmooth/nonsmooth.mplstyle")
            + library("plotting", "datasets/__init__", "architectures/__init__"),
        output:
            **figure_files("maxpool/pooling_error", "maxpool/pooling_error", figure="errors of the published pooling"),
        log:
            "logs/{run}/maxpool/pooling_error.log",
        resources:
            mem_mb=1000,
            runtime=5,
        message:
            "Draw how far the published pooling is from a maximum"
        script:
            "../scripts/maxpool/pooling_error.py"
