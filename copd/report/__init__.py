"""One HTML page about a run, or about several runs, without scripts or network.

- `page`: writes the page
- `reading`: reads a run folder
- `live`: the page of a running run, which `copd watch` serves
- `contents`: the contents of a run's page
- `single`: likeness of branches, learning curves, samples
- `comparison`: the contents of a page about several runs
- `words`: numbers and sentences
- `figures`: curves by matplotlib
- `private`: takes folders of the user's machine out of a page
- `svg`: a figure as an element of the page
"""
