"""What is measured, a module a topic, in the order in which it is shown.

Each has `TITLE`, `ABOUT` (how it is measured), `measure(quick)`, and, of what was measured,
`finding(topic)`, `tables(topic)` and `plots(topic)`.
"""

TOPICS = ("block", "litert", "imports", "surgery", "conversion", "reading", "search", "growth")
