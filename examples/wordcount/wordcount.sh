#!/bin/sh
#SWM name wordcount
#SWM comment Count the words of a text, and show the counts at a port meanwhile
#SWM input-files text.txt
#SWM output-files counts.txt
#SWM ports 0/tcp/in WEB
#SWM cpus 1
#SWM mem 64M
#SWM time 5m

echo "job $SWM_JOB_ID, attempt $SWM_ATTEMPT, on $SWM_NODES with $SWM_CPUS cpu"

# The input file lies in the work folder, under the name that the script gave.
tr -cs '[:alpha:]' '\n' < text.txt | tr '[:upper:]' '[:lower:]' | sort | uniq -c | sort -rn > counts.txt

# All that is in the work folder can be seen at the port, as long as the job runs.
python3 -m http.server --bind 127.0.0.1 "$SWM_PORT_WEB" > server.log 2>&1 &

for place in 1 2 3 4 5; do
    echo "place $place: $(sed -n "${place}p" counts.txt | sed 's/^ *//')"
    sleep 1
done
echo "$(wc -l < counts.txt | tr -d ' ') different words"
kill $!
