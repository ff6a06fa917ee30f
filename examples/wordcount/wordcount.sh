#!/bin/sh
#SWM name wordcount
#SWM comment Count the most frequent words of a text
#SWM input-files text.txt
#SWM output-files counts.txt
#SWM cpus 1
#SWM mem 64M
#SWM time 5m

echo "job $SWM_JOB_ID, attempt $SWM_ATTEMPT, on $SWM_NODES with $SWM_CPUS cpu"

# The input file lies in the work folder, under the name that the script gave.
tr -cs '[:alpha:]' '\n' < text.txt | tr '[:upper:]' '[:lower:]' | sort | uniq -c | sort -rn > counts.txt

for place in 1 2 3; do
    echo "place $place: $(sed -n "${place}p" counts.txt | sed 's/^ *//')"
    sleep 1
done
echo "$(wc -l < counts.txt | tr -d ' ') different words"
