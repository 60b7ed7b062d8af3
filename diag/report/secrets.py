"""What a secret looks like: by its own shape, or by the name it is given."""

from __future__ import annotations

import re

from diag.system.lazy import lazily

STAND_IN = "<secret>"

_SHAPES = lazily(
    r"""
      \bhf_(?:[A-Za-z0-9]{20,}|(?=[A-Za-z]*[0-9A-Z])[A-Za-z0-9]{8,}) # Hugging Face
    | \b(?:sk|rk|pk)-(?:proj-|ant-|or-)?[A-Za-z0-9_-]{16,}  # OpenAI, Anthropic, OpenRouter and their like
    | \bgh[pousr]_[A-Za-z0-9]{16,} | \bgithub_pat_\w{20,}   # GitHub
    | \bglpat-[\w-]{16,}                                    # GitLab
    | \bnvapi-[\w-]{16,}                                    # NVIDIA
    | \b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b               # AWS key ids
    | \bAIza[\w-]{30,}                                      # Google
    | \bxox[abprs]-[\w-]{10,}                               # Slack
    | \b(?:npm_|pypi-|dckr_pat_|dop_v1_|r8_)[\w-]{20,}      # registries and clouds
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                     # JSON web tokens
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----[\s\S]*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|$)
    """,
    re.VERBOSE,
)
_BEARER = lazily(r"(?i)\b(bearer|basic|token)(\s+)(?=[\w.~+/=-]{8,})((?=[\w.~+/=-]*[\d=])[\w.~+/=-]{8,})")
"""Authorization headers. A word without a digit is prose, not a token."""

_URL_LOGIN = lazily(r"(?i)\b([a-z][a-z0-9+.-]*://)([^\s/@:'\"]*)(?::([^\s/'\"]*?))?@(?=[\w\[])")
_QUERY = lazily(
    r"(?i)([?&](?:[\w-]*(?:token|secret|password|signature|credential|api[_-]?key|access[_-]?key)|sig|auth)=)([^\s&'\"<>]+)"
)
_LOGIN_OPTION = lazily(
    r"((?:^|\s)(?:-u|--user|--proxy-user)[ =]['\"]?[\w.@-]+:)([^\s'\":]+)(?=['\"]?(?:\s|$))"
)
"""curl's way of giving a password."""
_PROSE = lazily(
    r"(?i)(\b(?:password|passphrase|passwd)\s+(?:is|was)\s+(?:set to\s+)?)(['\"]?)([^\s'\"]*[^\s'\".,;])"
)
_PROMPT = lazily(r"(\bprompt: )(['\"])(.*?)\2(?=, (?:params|sampling|prompt_token|lora|multi)|$)", re.DOTALL)
"""vLLM prints what users asked in `Received request …: prompt: '…', params: …`."""

_NAME = lazily(
    r"""(?ix)^-{0,2}(?:[\w.-]*[_.-])?(?:
        password | passwd | passphrase | pwd | secret | secrets | credential | credentials
      | token | auth | authorization | api[_-]?token | auth[_-]?token
      | (?:api|access|secret|private|account|storage|ssh|encryption|signing|master|client|license|service|deploy|wandb|hf|s3)[_-]?key
      | (?:secret|access)[_-]?(?:key|token)(?:[_-]?id)? | apikey | cookie | session[_-]?token | dsn | connection[_-]?string
    )$"""
)
_UPPER_KEY = lazily(r"^[A-Z][A-Z0-9_]*(?:_|^)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?)$")
_NOT_SECRET = lazily(
    r"""(?ix)(?:^|[_.-])(?:(?:eos|bos|pad|unk|mask|sep|cls|next|prompt|start|end|stop|image|video|audio|decoder|special|
        newline|last|first|per|tool|think|ignore)[_-]token | (?:cache|sort|primary|foreign|state|dict|partition|pub|public|group)[_-]key)$"""
)
_HARMLESS = lazily(
    r"(?i)^(?:none|null|true|false|yes|no|on|off|unset|auto|-?[\d.:]+|\*+|<[^<>]{1,40}>|set|present|str|int|optional\[\w+|)$"
)

_ASSIGNED = lazily(
    r"""(?x)
    (?P<name>(?<![\w.-])-{0,2}[A-Za-z][\w.-]*)(?P<quote>["']?)
    (?P<between>\s*(?:=|:)\s*|[ ]+(?=\S))
    (?P<open>\[?)
    (?: "(?P<double>[^"]*)" | '(?P<single>[^']*)' | (?P<bare>[^\s"',;)\]}]+) )
    """
)


def names_secret(name: str) -> bool:
    """Return whether a variable, option or key of this name holds a secret."""
    if _NOT_SECRET.search(name):
        return False
    return bool(_NAME.match(name) or _UPPER_KEY.match(name))


def harmless(value: str) -> bool:
    """Return whether a value says nothing even where a secret might stand: a number, a switch, a stand-in."""
    return bool(_HARMLESS.match(value.strip()))


def hide_secrets(text: str) -> tuple[str, list[str]]:
    """Return the text without secrets, and the secrets that were in it."""
    taken: list[str] = []

    def take(value: str, kept: str = STAND_IN) -> str:
        taken.append(value)
        return kept

    def login(found: re.Match[str]) -> str:
        scheme, user, password = found.groups()
        if password is None and user in ("git", ""):
            return found[0]
        for part in (user, password):
            if part and not harmless(part):
                taken.append(part)
        return f"{scheme}{STAND_IN}@"

    def assigned(found: re.Match[str]) -> str:
        name, between = found["name"], found["between"]
        value = found["double"] or found["single"] or found["bare"] or ""
        if not names_secret(name) or harmless(value):
            return found[0]
        if not between.strip() and not name.startswith("-"):
            return found[0]  # prose: "token expired"; an option needs its dashes to take the next word
        if value.lower() == name.strip("-").lower() or value == name.rsplit(".", 1)[-1]:
            return found[0]  # `auth=auth` passes a variable on
        prose = (
            found["bare"]
            and between.strip() == ":"
            and not found["quote"]
            and value.isalpha()
            and value.islower()
        )
        if prose and not name.isupper():
            return found[0]  # `auth: simple token is ...`
        if re.fullmatch(r"(?i)bearer|basic|token", value):
            return found[0]  # the secret is the next word, already taken
        begin, end = found.span(
            "double" if found["double"] is not None else "single" if found["single"] is not None else "bare"
        )
        begin, end = begin - found.start(), end - found.start()
        taken.append(value)
        return found[0][:begin] + STAND_IN + found[0][end:]

    text = _PROMPT.sub(
        lambda found: (
            f"{found[1]}{found[2]}{'<prompt>' if harmless(found[3]) else take(found[3], '<prompt>')}{found[2]}"
        ),
        text,
    )
    text = _SHAPES.sub(lambda found: take(found[0]), text)
    text = _URL_LOGIN.sub(login, text)
    text = _QUERY.sub(lambda found: found[1] + (found[2] if harmless(found[2]) else take(found[2])), text)
    text = _BEARER.sub(lambda found: found[1] + found[2] + take(found[3]), text)
    text = _LOGIN_OPTION.sub(
        lambda found: found[1] + take(found[2]) if not found[2].isdigit() else found[0], text
    )
    text = _PROSE.sub(
        lambda found: (
            found[0] if not found[2] and found[3].isalpha() else found[1] + found[2] + take(found[3])
        ),
        text,
    )
    return _assignments(text, assigned), taken


def _assignments(text: str, replace: object) -> str:
    """Replace every `name = value`, looking again right after a name that was none: values hold names too."""
    parts: list[str] = []
    position = 0
    for _ in range(len(text) + 1):
        found = _ASSIGNED.search(text, position)
        if found is None:
            break
        changed = replace(found)  # type: ignore[operator]
        if changed == found[0]:
            end = found.end("name")
            parts.append(text[position:end])
        else:
            end = found.end()
            parts.append(text[position : found.start()] + changed)
        position = end
    parts.append(text[position:])
    return "".join(parts)
