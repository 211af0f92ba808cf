# Speed, measured on this machine as ratios within one run: `snakemake benchmark`.
