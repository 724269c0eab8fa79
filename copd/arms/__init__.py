"""`copd compare`: arms that differ in their overrides, over several seeds, at one budget.

- `comparison`: the file of a comparison
- `jobs`: its jobs: an arm, a seed and an account, as one `copd train` each
- `budgets`: what each account lets an arm spend
- `search`: what an arm chooses before the test
- `running`: runs the jobs, as many at once as there are cores
- `on_ray`: runs a job on a cluster
- `outcomes`: what is kept of a finished job, in one small file
- `summary`: differences over seeds, with intervals and tests
- `page`: the page about it
- `advice_map`: which method was best in which world, for `copd advise`
"""
