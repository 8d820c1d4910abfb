#!/bin/sh
# Stops what `walrill demo --keep` left running and removes its files.
pids="${PIDS}"
kill -INT $pids 2>/dev/null
for i in $(seq 100); do
  kill -0 $pids 2>/dev/null || break # fails once none of them is left
  sleep 0.1
done
kill -KILL $pids 2>/dev/null
rm -rf "${DIR}"
echo "stopped; ${DIR} is removed"
