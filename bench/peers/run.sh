#!/bin/sh
# Runs a job with two mawk processes, each over every second file: run.sh j1|j2|j4 IN OUT
set -eu
export LC_ALL=C
job=$1 input=$2 output=$3
peers=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$output/server_error" "$output/client_error" "$output/ok"
output=$(cd "$output" && pwd)

half() { # the names of every second file, from the given one on
    ls "$input" | mawk -v from="$1" 'NR % 2 == from'
}

cut_half() { # names have no spaces in the data sets, so they can be split into arguments
    # shellcheck disable=SC2046
    case $job in
    j1) (cd "$input" && exec mawk -v out="$output" -f "$peers/j1.awk" $(half "$1")) ;;
    j2 | j4) (cd "$input" && exec mawk -F '"' -v out="$output" -v table="$output/partial-$1" \
        -f "$peers/j2.awk" $(half "$1")) ;;
    *) echo "run.sh: no such job: $job" >&2 && exit 2 ;;
    esac
}

input=$(cd "$input" && pwd)
cut_half 0 &
even=$!
cut_half 1 &
odd=$!
wait "$even"
wait "$odd"
[ "$job" = j1 ] && exit 0

mkdir -p "$output/traffic"
{
    echo host,status,hits,bytes,worst_ms
    mawk -F , -f "$peers/merge.awk" "$output"/partial-* | sort -t , -k 1,1 -k 2,2n
} > "$output/traffic/traffic.csv"
rm -f "$output"/partial-*
