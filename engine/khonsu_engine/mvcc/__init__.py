"""Clock, predicates, validation and horizons: the pure core of concurrency control. No I/O, no thread, no real time."""
