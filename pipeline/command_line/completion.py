"""The verb `completion`: a bash function that completes verbs and flags."""

from collections.abc import Mapping, Sequence


def completion(flags: Mapping[str, Sequence[str]]) -> str:
    """Return a bash function that completes verbs, then the flags of the verb.

    flags: {verb: its flags, as they are typed}
    """
    cases = "\n".join(f'    {verb}) words="{" ".join(words)}" ;;' for verb, words in flags.items())
    return f"""_ich_stack() {{
  local words="{" ".join(flags)}"
  [ "$COMP_CWORD" -le 1 ] || case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _ich_stack ich-stack"""
