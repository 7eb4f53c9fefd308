"""What runs in the user's process.

Layout, top to bottom; each imports only what is below it::

    backend.py      joblib's contract, translated
    running.py      one live call: its threads, carrying out what call.py says
    progress.py     a line or bar that says how far a call is
    surroundings.py what all tasks of a call find around themselves
    intake.py       takes tasks from joblib, packs them, stores their large data
    ahead.py        has joblib hand over more tasks than it would by itself
    results.py      what joblib's callbacks are called with; pure
    sending.py      what is sent of a batch, and with it; pure
    sent.py         when the attempts of a call were sent; pure
    inputs.py       dask futures and collections among the arguments
    records.py      what the calls of this process have done, summed up; pure
    tally.py        what is counted of one call
    spans.py        when workers were at work; pure
    traffic.py      how much large data a call shared, and how much of it travelled
    call.py         one call's ledger: events in, instructions out; pure
    verdicts.py     what is said of a task that failed for a reason of ours; pure
    findings.py     what a look at the scheduler means for an attempt; pure
    flights.py      the attempts of a call that are out; pure
    entries.py      what the ledger keeps of undelivered tasks; pure
    batching.py     how many tasks go in the next batch; pure
    lanes.py        when each thread will have done what it was sent; pure
    sources.py      where the cluster of a call comes from
    cluster.py      what the driver needs of a distributed.Client; posts events
    submitting.py   hands attempts to the engine
    outgoing.py     attempts that are sent at the same time; pure
    known.py        what all calls on one cluster know of it together
    absence.py      tells the user that there is no worker
    latency.py      how soon the engine passes on what it is given
    printing.py     shows what tasks print
    recalling.py    asks workers for what they have not begun
    looks.py        what the scheduler says of attempts
    fetching.py     fetches what attempts have given
    reconnecting.py what happens when a client loses its scheduler
    survey.py       what every process of a cluster says of itself
    fitness.py      whether those can run calls; pure
    checks.py       makes sure that a cluster can run tasks
    ourselves.py    sends this package to workers that do not have it
    keys.py         keys of attempts, and what they tell; pure
    attendance.py   which workers are there, and report
    heartbeats.py   which workers have stopped reporting; pure
    storeless.py    which workers can have no large data on their hosts
    supplier.py     brings large buffers to hosts that lack them
    supply.py       which host gets a buffer from whom; pure
    reach.py        asks single workers, by whichever way they are reached
    embedded.py     the cluster we start when there is none
    certificate.py  what its processes know each other by
    turns.py        one suspect at a time of all calls of this process on a cluster
    own_modules.py  which modules are the user's own, so that workers lack them
    telling.py      tells the user what goes on
    seceding.py     leaving the worker's thread pool while a nested call waits
    joblib_hooks.py the only module that touches joblib's private names
    refusals.py     what is said when the cluster cannot serve a call; pure
    losses.py       what it looks like when a connection is lost
    events.py       the events and instructions of call.py, and what else the
                    thread of a call hears; pure
"""
