# J2, the obvious way: cut the line at its quotes (no JSON parser: right for this data set only, where
# the four fields stand before the first text that may hold an escaped quote).
# Run in the folder of the inputs: mawk -F '"' -v out=OUT -v table=PARTIAL -f j2.awk FILE...
#
# $8 is the host, $19 is `:STATUS,`, $21 is `:BYTES,`, $23 is `:LATENCY,`.

FNR == 1 {
    if (server_error) { close(server_error); close(client_error); close(ok) }
    server_error = out "/server_error/" FILENAME
    client_error = out "/client_error/" FILENAME
    ok = out "/ok/" FILENAME
}

{
    status = substr($19, 2) + 0
    latency_ms = substr($23, 2) + 0
    key = $8 "," status
    hits[key]++
    bytes[key] += substr($21, 2) + 0
    if (latency_ms > worst_ms[key]) worst_ms[key] = latency_ms
    if (status >= 500) print > server_error
    else if (status >= 400) print > client_error
    else print > ok
}

END {
    for (key in hits) printf "%s,%d,%.0f,%.3f\n", key, hits[key], bytes[key], worst_ms[key] > table
}
