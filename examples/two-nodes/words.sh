#!/bin/sh
#SWM name two-nodes
#SWM comment Count the words of a text on two nodes, in a container, without those that its owner's machine serves
#SWM nodes 2
#SWM launch every
#SWM container-image busybox:1
#SWM input-files text.txt
#SWM output-files counts-*.txt
#SWM ports 0/tcp/in WEB
#SWM ports 8099/tcp/out
#SWM cpus 2
#SWM mem 2G
#SWM time 10m
#SWM max-cost 1

# It wants a web server at port 8099 of the machine that its core runs on, with dull.txt there (words to leave out, one a
# line), and with seen.txt once the counts were seen. `make demo-azure` has that.

echo "node $SWM_NODE_RANK of $SWM_NUM_NODES: $(hostname), one of $SWM_NODES, as $(id -u)"

# An out-port leads from each node to the machine that the job was submitted on.
wget -q -O dull.txt http://127.0.0.1:8099/dull.txt

# Each node takes the lines that are its own.
awk -v nodes="$SWM_NUM_NODES" -v rank="$SWM_NODE_RANK" 'NR % nodes == rank' text.txt |
    tr -cs '[:alpha:]' '\n' | tr '[:upper:]' '[:lower:]' |
    grep -v -x -f dull.txt | sort | uniq -c | sort -rn > "counts-$SWM_NODE_RANK.txt"
head -n 3 "counts-$SWM_NODE_RANK.txt"

# An in-port: what lies here is served on each node until somebody there says that it was seen.
httpd -p "127.0.0.1:$SWM_PORT_WEB" -h . -f &
server=$!
tries=60
until wget -q -O seen.txt http://127.0.0.1:8099/seen.txt 2> seen.log || [ "$((tries -= 1))" -lt 0 ]; do
    sleep 1
done
kill "$server"
echo "node $SWM_NODE_RANK: $(wc -l < "counts-$SWM_NODE_RANK.txt") different words"
