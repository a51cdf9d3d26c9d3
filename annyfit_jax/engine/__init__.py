"""Who does the work: one process (the default), or any number of workers of a Ray cluster; both behind `run`.

| module | what is in it |
|---|---|
| `stages` | stages of work and their workers |
| `running` | `run`, and the engine that is this process |
| `ray_engine` | the engine of actors on a Ray cluster; needs the extra `ray` |
| `stopping` | SIGTERM and SIGINT as an event, and the exception that follows |

Work is cut into units. A stage makes a worker once per process, which takes units one after the other and may have several
under way; it writes what it makes where it belongs and returns a small result. The driver alone calls `Stage.commit`. A stage
may come after others: a unit is given to it when they have done that unit."""
