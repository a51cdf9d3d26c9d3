"""A static report of fits that opens from disk: charts, worst and random scenes, filter and sort, pictures, 3D views.

| module | subject |
|---|---|
| `report_columns` | what is known of each person, as named numbers |
| `people_table` | all scenes and people as columns, cut into files that script tags load |
| `charts` | histograms over everybody, counts of what failed |
| `choice` | which scenes get pictures |
| `report_pictures` | the pictures and the 3D model of one scene |
| `site` | the folder: pages, scripts, data |

A page opened from disk may load scripts and images, but not fetch files: data are scripts that call a function with JSON. The
charts are made here, from everybody; lists, filters and the 3D view are `annyfit_jax/data/report*.js`, which need nothing from
a network.
"""

from annyfit_jax.report.site import ReportOptions, write_report

__all__ = ["ReportOptions", "write_report"]
