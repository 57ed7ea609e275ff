"""Lua as Argo CD runs it: version 5.1, of the libraries base, package, table and two functions of os, and `obj`."""

from collections.abc import Mapping
from typing import Any

from lupa import lua51

# In the place of those that Argo CD leaves out for scripts of its users; strings have no methods either.
_RESTRICT = """
os = {time = os.time, date = os.date}
package.loaded.os = os
for _, name in ipairs({"string", "math", "io", "debug", "coroutine"}) do
  _G[name], package.loaded[name] = nil, nil
end
"""


def run(script: str, obj: Mapping[str, Any]) -> Any:
    """What the script returns of the object: tables as dicts, or as lists when their keys are 1, 2, 3."""
    lua = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    lua.execute('getmetatable("").__index = nil')
    lua.execute(_RESTRICT)
    lua.globals().obj = lua.table_from(obj, recursive=True)
    lua.globals().python = None
    return _plain(lua.execute(script))


def _plain(value: Any) -> Any:
    if lua51.lua_type(value) != "table":
        return value
    entries = {key: _plain(inner) for key, inner in value.items()}
    is_list = list(entries) == list(range(1, len(entries) + 1))
    return list(entries.values()) if is_list else entries
