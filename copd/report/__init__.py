"""One HTML page about a run, or about several side by side, without scripts or network.

- `page`: writes the page
- `reading`: what a run folder holds
- `contents`: what a page shows of a run
- `single`: how alike branches are, how they learn, what they answer
- `comparison`: what a page shows of several runs
- `words`: numbers and sentences
- `figures`: curves by matplotlib
- `svg`: a figure as an element of the page
"""
