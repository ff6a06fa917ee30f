# FILE OFFSET COUNT: so many bytes of an output file, which has them.

tail -c +$(($2 + 1)) "$root/jobs/$1" | head -c "$3"
