"""Where rows live: memtable and segments, put together as table versions that scans read."""
