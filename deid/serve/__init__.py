"""The HTTP service: pictures in, safe pictures out, and a page for people.

settings, tokens     what it is started with
server               uvicorn, its time limits, an end that loses no request
app, edge            routes, and what holds for every request: ids, headers, tokens, rate, logs
reading, options     from a request to a picture and settings
pool, work           worker processes: the queue here, the networks there
answers, problems    from a result to a response
"""
