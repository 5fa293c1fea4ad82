"""Sources that are not files: a query of a database, a paged JSON API, a list of web pages.

What such a source answers may differ tomorrow, but everything after `fetch` wants files that do not change. So the
first step of a run fetches each of these sources once and commits the answers below the output; from there on they are
an input like any other, read by the reader `fetched`.

    OUTPUT/fetched/SOURCE/000000    Parquet, a row for each record, with the time when it was received
    OUTPUT/fetched/SOURCE.json      the record of the source: what was asked, when, and how many rows came. Written last

    settings.py   the settings `database`, `api` and `pages` of an input
    snapshot.py   what a connector yields, the stages that commit it, and the record
    client.py     HTTP requests with limits, retries and checked addresses
    database.py, api.py, pages.py   the connectors

A connector yields pages of rows, each with the position of the next page. A stage of one unit commits 100 pages; the
next stage begins where it ended. So a run that was killed continues after the last 100 pages, and a query, which has no
positions, begins again. The driver does this work itself: rates and delays are per server, so requests of many workers
would have to wait for each other, and only the driver needs the passwords, which it reads from its environment.
"""
