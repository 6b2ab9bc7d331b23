"""Metrics: what a monitoring system is told of the proxy.

=========== =========================================================================================
table       THE table: each metric with its name, type, help, labels and where its values come from
samples     the functions that get a metric's values out of a snapshot
snapshot    what there is to tell at one moment
scrape      taking a snapshot of the running proxy, at a small share of its time
exposition  writing a snapshot down, in Prometheus' text format or OpenMetrics
reference   docs/metrics.md, drawn from the table
=========== =========================================================================================
"""
