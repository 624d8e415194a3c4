"""Values under keys, for people who want no SQL: keyed Arrow batches (`batches`) and small entries (`key_value`).

    shapes       the tables both are kept in, and how they come to be
    keys         what a key may be, prefixes as ranges
    expiry       when a value expires
    heads        one row per key: its revision, its expiry, its value or where that is
    contents     the batches of one transaction: heads and contents together
    blind        writes kept back until the commit: appends, and what a policy may decide
    work         one transaction: calls, levels, its end
    keyspace     one database as these rooms see it: transactions by id, their ends, collecting
    sweep        expired values are collected
    reading      for SQL: as rows, and the content of one
    batch_codec  Arrow batches as bytes
    policies     what happens to a write that collides
    merge        what APPEND makes of two batches

All of it is an ordinary user of transactions (waist 2): what is written here conflicts, is recovered and is seen by SQL as rows are.
"""
