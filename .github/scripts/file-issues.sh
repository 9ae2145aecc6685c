#!/usr/bin/env bash
# file-issues.sh SUMMARY.json..: one issue for each way to fail that the campaigns found.
#
# An issue is known by its signature, in a comment in its body that nobody sees. A failure whose issue exists gets a comment
# there (and a closed issue is opened again); others get an issue of their own, at most MAX_NEW in one night. What a failure
# says may hold anything: it goes through files, and into the text as an indented block, in which nothing is markup.
#
# Environment: GH_TOKEN for gh; RUN_URL, where the artefacts are; MAX_NEW (10).
set -euo pipefail

max_new=${MAX_NEW:-10}
run_url=${RUN_URL:-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# One line for each signature over all summaries: key, title, text, how many plans.
jq -sc '
  [ .[] | .failures | to_entries[] | {key, title: .value.title, text: .value.text,
      plans: ((.value.seeds | length) + .value.unnamed)} ]
  + [ .[] | .divergences[] | {key: "\(.scenario)-nondeterminism", title: "a plan went two ways", plans: 1,
      text: "\(.scenario):\(.seed)  \(.told)\n\(.replay)"} ]
  | group_by(.key)[] | {key: .[0].key, title: .[0].title, text: .[0].text, plans: (map(.plans) | add)}
' "$@" >"$scratch/failures"

new=0
while IFS= read -r failure; do
  key=$(jq -r .key <<<"$failure")
  if ! [[ $key =~ ^[A-Za-z0-9_.-]+$ ]]; then
    echo "file-issues: not a signature, skipped" >&2
    continue
  fi
  marker="<!-- cutwater-sig:$key -->"
  {
    printf 'Found in %s plans.\n\n' "$(jq -r .plans <<<"$failure")"
    jq -r .text <<<"$failure" | sed 's/^/    /'
    [ -z "$run_url" ] || printf '\nPlan and story are in the artefacts of %s\n' "$run_url"
    printf '\n%s\n' "$marker"
  } >"$scratch/body"

  # The search is by words and late by minutes: the marker decides.
  gh issue list --state all --limit 100 --search "\"cutwater-sig:$key\" in:body" --json number,state,body >"$scratch/found"
  number=$(jq -r --arg marker "$marker" '[.[] | select(.body | contains($marker))] | sort_by(.state != "OPEN", .number)
    | .[0].number // empty' "$scratch/found")
  state=$(jq -r --arg number "$number" '.[] | select("\(.number)" == $number) | .state' "$scratch/found")

  if [ -n "$number" ]; then
    [ "$state" = OPEN ] || gh issue reopen "$number"
    gh issue comment "$number" --body-file "$scratch/body"
  elif [ "$new" -lt "$max_new" ]; then
    title=$(jq -r '"\(.key): \(.title)"' <<<"$failure" | tr '\r\n\t' '   ' | cut -c1-120)
    gh issue create --title "$title" --body-file "$scratch/body"
    new=$((new + 1))
  else
    echo "file-issues: more than $max_new new failures; $key has no issue yet" >&2
  fi
done <"$scratch/failures"
