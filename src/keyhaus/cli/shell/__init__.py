"""`keyhaus shell`: commands typed by a person, given with -c, or read from a script; replies for people, or as JSON.

    bytes → quoting → local, aliases → dialogue → link → the server
                                          ↕ state
    A reply comes back through the view (people) or as one JSON document.

Invariants: a command is sent once, and never again by itself. No control character of stored data reaches the
terminal: everything that is printed has passed `quoting.escaped` or JSON's escapes. Nothing waits for completion.
"""
