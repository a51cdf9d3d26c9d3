"""The fit of all people of many scenes: `fitter.Fitter` is the whole, `config.FitConfig` what decides one.

| module | what is in it |
|---|---|
| `config` | stages, weights, step sizes, solver: a fit as data |
| `starts`, `keypoint_start` | who can be fitted and from where; a start from 2D keypoints and words alone |
| `packing`, `problem` | which scenes share a list of people; many scenes as one flat list |
| `fit_body` | a body model as the solvers see it |
| `objective`, `adam` | the terms and their table `TERMS`; the stages of Adam |
| `second_order` | the MAP objective of the default config, a list of costs, by Levenberg-Marquardt |
| `fitter` | start, pack, solve on every local device, judge |
| `trust` | which fits to trust |
"""
