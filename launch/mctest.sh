#!/usr/bin/env bash
# MCTest (Richardson et al. 2013), as it is published, for multiple choice: one JSON object a question.
#
# usage: launch/mctest.sh STORIES.tsv ANSWERS.ans > OUT.jsonl
#
# A line of STORIES has an id, who wrote it, the story, and four times a question (after "one: " or "multiple: ", which
# says how many sentences answer it) with four choices. ANSWERS has the letters of the right ones on the same line.
set -euo pipefail
if [[ $# != 2 ]]; then
    echo "usage: launch/mctest.sh STORIES.tsv ANSWERS.ans > OUT.jsonl" >&2
    exit 2
fi
paste "$1" "$2" | tr -d '\r' | awk -F '\t' '
    function json(text) {
        gsub(/\\newline|\\tab/, " ", text)
        gsub(/\\/, "\\\\", text)
        gsub(/"/, "\\\"", text)
        return "\"" text "\""
    }
    NF != 27 {
        print "line " NR ": " NF " columns of 23 and 4: not MCTest, or not its answers" > "/dev/stderr"
        exit 2
    }
    {
        for (i = 0; i < 4; i++) {
            first = 4 + 5 * i
            question = $first
            sub(/^(one|multiple): /, "", question)
            printf "{\"question\": %s, \"context\": %s, \"choices\": [", json(question), json($3)
            for (j = 1; j <= 4; j++) printf "%s%s", json($(first + j)), (j < 4 ? ", " : "]")
            printf ", \"label\": \"%s\"}\n", $(24 + i)
        }
    }'
