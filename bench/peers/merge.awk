# Adds the partial tables of J2: mawk -F , -f merge.awk PARTIAL...

{
    key = $1 "," $2
    hits[key] += $3
    bytes[key] += $4
    if ($5 > worst_ms[key]) worst_ms[key] = $5
}

END { for (key in hits) printf "%s,%d,%.0f,%.3f\n", key, hits[key], bytes[key], worst_ms[key] }
