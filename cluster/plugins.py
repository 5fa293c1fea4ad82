"""Plug-ins: classes and functions of the user that a config names, such as a rule of one's own.

    rules: {custom: [my_rules:Shouting, {use: "my_rules:Shouting", max_upper_fraction: 0.2}]}

`use` is `module:attribute`, found in the folder of the config, then among installed packages; or a name that an
installed package registers by an entry point; or, in Python, the class or function itself. The other entries are its
settings: parameters with annotations and defaults, or fields of a dataclass or pydantic model.

A plug-in is imported only for a config that the user gives. Configs in the records of runs are validated without the
context of `context_for`, and their plug-ins stay unloaded: whoever wrote a record would choose the code that runs.

Workers receive the source of the module and of what it imports beside it, and import it from memory. Installed packages
are not sent. What is defined in a notebook or in `__main__` is sent by value, by Ray's pickle.
"""

import ast
import base64
import dataclasses
import difflib
import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import json
import os
import re
import sys
import sysconfig
import threading
import types
import typing
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticSerializationError

from raymill.cluster.errors import ConfigError, UserError
from raymill.cluster.secret_values import redacted

_FOLDER, _KNOWN = "plugin_folder", "plugins"  # keys of pydantic's context
_SOURCE = "with_source"  # key of the context with which a config is written for a job
_ENTRY_KEYS = ("use", "code", "source")  # keys of an entry that are not settings of the plug-in
_SHOWN_CHARACTERS = 200
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_NAME_IN_RESULTS = re.compile(r"[a-z][a-z0-9_]*")

# Types of which the fingerprint covers values that a function of a notebook names. Sets have no order.
_PLAIN = (str, bytes, int, float, tuple, list, dict, re.Pattern)

_lock = threading.RLock()
_imported: dict[str, str] = {}  # module of a plug-in -> fingerprint of the source that was imported
_made: dict[tuple[str, str, str], Any] = {}  # plug-ins of this process, made from their settings


def context_for(path: str) -> dict[str, Any]:
    """The context with which pydantic imports the plug-ins of a config. path: its file, or text that names none."""
    return {_FOLDER: str(Path(path).resolve().parent) if os.path.isfile(path) else os.getcwd()}


def context_of(plugins: Sequence["Plugin"]) -> dict[str, Any]:
    """The context with which pydantic uses these plug-ins in a recorded config, if their code is as recorded."""
    return {_KNOWN: {(one.use, one.code): one for one in plugins}}


@dataclass(frozen=True)
class PluginKind:
    """What a plug-in can be for.

    Attributes:
        noun: for messages, such as `rule`.
        group: entry points of packages that register names.
        arguments: names of the positional arguments of a function of this kind.
        methods: names of methods, of which a class of this kind has one or more.
    """

    noun: str
    group: str
    arguments: tuple[str, ...]
    methods: tuple[str, ...]

    @property
    def wanted(self) -> str:
        """What a plug-in of this kind is, for messages."""
        return f"a function of ({', '.join(self.arguments)}), or a class with the method {' or '.join(self.methods)}"


@dataclass(frozen=True)
class Plugin:
    """A class or function of the user, with its settings.

    Attributes:
        use: its name in the config.
        code: SHA-256 of its source.
        settings: all of them, defaults included, as JSON values.
        arguments: the same as Python values.
        target: the class or function.
        files: path below the folder -> source, of the modules that are sent to workers; None for installed packages and
            for what is sent by value.
    """

    use: str
    code: str
    settings: Mapping[str, Any] = field(hash=False)
    arguments: Mapping[str, Any] = field(compare=False, repr=False)
    target: Any = field(compare=False, repr=False)
    files: Mapping[str, bytes] | None = field(compare=False, repr=False)

    def make(self) -> Any:
        """The function with its settings, or an instance of the class; one in each process."""
        key = (self.use, self.code, json.dumps(self.settings, sort_keys=True))
        with _lock:
            if key not in _made:
                is_class = inspect.isclass(self.target)
                _made[key] = self.target(**self.arguments) if is_class else partial(self.target, **self.arguments)
            return _made[key]

    @property
    def name(self) -> str:
        """Its name in results: the attribute `name`, else the name of the class or function in snake case.

        A function `keep` or `score` has the name of its module.

        Raises:
            ConfigError: it has other characters than lower-case letters, digits and underscores.
        """
        name: Any = getattr(self.target, "name", None)
        if not isinstance(name, str):
            own, module = self.target.__name__, self.target.__module__.rpartition(".")[2]
            name = module if own in ("keep", "score") else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", own).lower()
        if not _NAME_IN_RESULTS.fullmatch(name):
            raise ConfigError(f"{self.use}: its name is {name!r}; wanted lower-case letters, digits and underscores")
        return name

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.use, self.code, self.settings, self.arguments)
        if _is_by_value(self.target):
            return Plugin, (*fields, self.target, None)
        return _arrived, (*fields, self.target.__module__, self.target.__qualname__, self.files)


def _arrived(
    use: str,
    code: str,
    settings: Mapping[str, Any],
    arguments: Mapping[str, Any],
    module: str,
    name: str,
    files: Mapping[str, bytes] | None,
) -> Plugin:
    """The plug-in in a worker, with its code imported there."""
    with _lock:
        if files is not None:
            _import_from_memory(module, code, files)
        try:
            target = _attribute(importlib.import_module(module), name)
        except ImportError as error:
            raise ConfigError(
                f"{use}: cannot be imported on a worker ({error}). Install the package on every node of the cluster: "
                "only modules beside the config are sent."
            ) from error
    return Plugin(use, code, settings, arguments, target, files)


def _import_from_memory(module: str, code: str, files: Mapping[str, bytes]) -> None:
    """Let these files be imported as modules, unless the module was imported with this code already."""
    if _imported.get(module) != code or module not in sys.modules:
        _forget(_modules_of(files))
        sys.meta_path.insert(0, _SentModules(files))
        _imported[module] = code


class PluginUse(BaseModel):
    """An entry of a setting `custom`: `module:attribute`, or a group with `use` and the settings of the plug-in."""

    model_config = ConfigDict(extra="allow", frozen=True)
    short_form: ClassVar = "use"
    kind: ClassVar[PluginKind]

    use: str = Field(
        description="Class or function to use, as `module:attribute` beside the config or in an installed package, or "
        "a name that an installed package registers"
    )
    code: str | None = Field(
        None,
        description="SHA-256 of the source of the class or function, as records of runs have it; null: computed",
    )

    _plugin: Plugin | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _load(cls, value: Any, handler: Any, info: Any) -> Self:
        if isinstance(value, cls):
            return value
        entry = dict(value) if isinstance(value, Mapping) else {"use": value}
        use, settings = entry.get("use"), {name: one for name, one in entry.items() if name not in _ENTRY_KEYS}
        context, plugin = info.context or {}, None
        if use is None:
            pass  # reported as missing
        elif not isinstance(use, str):
            name = f"{getattr(use, '__module__', '')}:{getattr(use, '__qualname__', repr(use)[:_SHOWN_CHARACTERS])}"
            plugin = load_plugin(cls.kind, use, name.removeprefix(":"), settings)
        elif _FOLDER in context:
            source = entry.get("source")
            target = _unpacked(use, source) if source else _named(cls.kind, use, context[_FOLDER])
            plugin = load_plugin(cls.kind, target, use, settings)
        elif (known := context.get(_KNOWN, {}).get((use, entry.get("code")))) is not None:
            plugin = load_plugin(cls.kind, known.target, use, settings)
        if plugin is not None:
            entry = {"use": plugin.use, "code": plugin.code, **plugin.settings}
        entry.pop("source", None)
        made = handler(entry)
        made._plugin = plugin
        if plugin is not None:
            made.check(plugin)
        return made

    @model_serializer(mode="wrap")
    def _plain(self, handler: Any, info: Any) -> dict[str, Any]:
        """The entry: for a job with the source of its modules, in Python with the class or function itself as `use`.

        The driver of a job lacks the modules, and a class or function may lack a name that can be imported.
        """
        plain = handler(self)
        if self._plugin and (info.context or {}).get(_SOURCE):
            plain |= _packed(self._plugin)
        return plain | {"use": self._plugin.target} if self._plugin and info.mode == "python" else plain

    def check(self, plugin: Plugin) -> None:
        """Verify that a plug-in fits what it is for. Raises ConfigError."""

    @property
    def plugin(self) -> Plugin | None:
        """The plug-in; None in a config of a record, whose code is not imported."""
        return self._plugin

    def loaded(self) -> Plugin:
        """The plug-in.

        Raises:
            ConfigError: it is not loaded, because a record has the config.
        """
        if self._plugin is None:
            raise ConfigError(
                f"{self.use}: this {self.kind.noun} is code that the record of a run names, and such code is not "
                "imported. Give the config of the run (raymill.cluster.config.load, or --config), or in Python the "
                "class or function itself."
            )
        return self._plugin


def plugins_in(settings: BaseModel) -> list[Plugin]:
    """The plug-ins of a config, without those whose code is not loaded."""
    if isinstance(settings, PluginUse):
        return [settings.plugin] if settings.plugin else []
    values = [getattr(settings, name) for name in type(settings).model_fields]
    inner = [one for value in values for one in (value if isinstance(value, tuple) else (value,))]
    return [plugin for one in inner if isinstance(one, BaseModel) for plugin in plugins_in(one)]


# --- finding and importing


def _named(kind: PluginKind, use: str, folder: str) -> Any:
    """The class or function with this name. folder: is searched for its module first, beside installed packages."""
    if ":" not in use:
        registered = {one.name: one for one in entry_points(group=kind.group)}
        if use not in registered:
            there = f"installed packages register {', '.join(sorted(registered))}" if registered else (
                f"no installed package registers a {kind.noun}"
            )  # fmt: skip
            near = difflib.get_close_matches(use, registered, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"{use!r} given; wanted `module:attribute`, as in my_module:{use.title()}; {there}.{hint}"
            )
        with _import_errors(use):
            return registered[use].load()
    if not _NAME.fullmatch(use):
        raise ConfigError(f"{use!r} given; wanted `module:attribute`, as in my_rules:Shouting")
    module, _, name = use.partition(":")
    with _lock:
        importlib.invalidate_caches()
        _put_on_path(folder)
        _forget_changed(module, folder)
        with _import_errors(use):
            return _attribute(importlib.import_module(module), name)


def is_registered(kind: PluginKind, name: str) -> bool:
    """Whether an installed package registers a plug-in of this name."""
    return any(one.name == name for one in entry_points(group=kind.group))


@contextmanager
def _import_errors(use: str) -> Iterator[None]:
    """Raises errors of the user's module as errors of the config."""
    module = use.partition(":")[0]
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{use}: there is no module {error.name}, neither beside the config nor in the working folder nor "
                f"among the packages of {sys.executable}. Put {error.name}.py beside the config, or install its package"
            ) from error
        raise ConfigError(f"{use}: importing {module} raised {shown_error(error)}. Correct that module") from error


def _attribute(module: types.ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [one for one in vars(module) if not one.startswith("_")]
            near = difflib.get_close_matches(part, public, n=1)
            raise ConfigError(
                f"{module.__name__}:{name}: {getattr(module, '__file__', None) or module.__name__} has no {part}."
                + (f" Did you mean {near[0]}?" if near else " Define it there, or correct the name")
            )
        found = getattr(found, part)
    return found


_folders: list[str] = []  # folders of configs, the newest first


def _put_on_path(folder: str) -> None:
    """Search a folder after all others but those of earlier configs, so that it shadows no installed module."""
    others = [one for one in sys.path if one not in _folders]
    if folder not in others:
        _folders[:] = [folder, *(one for one in _folders if one != folder)]
        sys.path[:] = [*others, *_folders]


def _forget_changed(module: str, folder: str) -> None:
    """Remove an imported module of the folder if it came from elsewhere, or its source has changed since."""
    top = module.partition(".")[0]
    loaded = sys.modules.get(module) or sys.modules.get(top)
    if loaded is None or not _module_file(Path(folder), top):
        return
    file = getattr(loaded, "__file__", None)
    if file is not None and _is_installed(Path(file)):
        return
    files = _sources(module, Path(folder))
    digest = _digest(files)
    is_here = file is not None and Path(file).is_relative_to(folder)
    if not is_here or _imported.get(module, digest) != digest:
        _forget(_modules_of(files))


def _forget(modules: Sequence[str]) -> None:
    for name in modules:
        sys.modules.pop(name, None)
    sys.meta_path[:] = [one for one in sys.meta_path if not (isinstance(one, _SentModules) and one.has(modules))]


class _SentModules(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from their source in memory."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files

    def has(self, modules: Sequence[str]) -> bool:
        """Whether one of the modules is imported from here."""
        return any(self._path(name) for name in modules)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """The spec of a module that is here, else None."""
        if self._path(fullname) is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=self.is_package(fullname))

    def is_package(self, fullname: str) -> bool:
        """Whether the module has modules below it."""
        return not (self._path(fullname) or "").endswith(f"{fullname.rpartition('.')[2]}.py")

    def get_source(self, fullname: str) -> str:
        """The source; empty for a folder without `__init__.py`."""
        return importlib.util.decode_source(self.files.get(self._path(fullname) or "", b""))

    def _path(self, name: str) -> str | None:
        stem = name.replace(".", "/")
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in self.files:
                return path
        return stem if any(path.startswith(f"{stem}/") for path in self.files) else None


# --- the config of a job


def context_of_job(config: BaseModel) -> dict[str, Any]:
    """The context with which pydantic writes the config of a job, whose plug-ins have their source.

    Raises:
        ConfigError: one is sent by value, which a config cannot hold.
    """
    if by_value := [one.use for one in plugins_in(config) if _is_by_value(one.target)]:
        raise ConfigError(
            f"{', '.join(by_value)}: defined in a notebook or script, and a job has its config as text. Move it into a "
            "module beside the config, and name it as `module:attribute`."
        )
    return {_SOURCE: True}


def _packed(plugin: Plugin) -> dict[str, str]:
    """The setting `source` of a plug-in; empty for an installed package."""
    target = plugin.target
    if plugin.files is None:
        return {}
    files = {path: source.decode("latin-1") for path, source in plugin.files.items()}
    text = json.dumps({"name": f"{target.__module__}:{target.__qualname__}", "files": files})
    return {"source": base64.b64encode(zlib.compress(text.encode(), 9)).decode()}


def _unpacked(use: str, source: str) -> Any:
    """The class or function of a setting `source`, imported from memory."""
    packed = json.loads(zlib.decompress(base64.b64decode(source)))
    files = {path: text.encode("latin-1") for path, text in packed["files"].items()}
    module, _, name = packed["name"].partition(":")
    with _lock, _import_errors(use):
        _import_from_memory(module, _digest(files), files)
        return _attribute(importlib.import_module(module), name)


# --- source and fingerprint


def _is_by_value(target: Any) -> bool:
    """Whether the class or function is sent as an object: no module that a worker could import has it."""
    if target.__module__ == "__main__" or "<locals>" in target.__qualname__:
        return True
    return _sent_files(target.__module__) is None and not hasattr(sys.modules.get(target.__module__), "__file__")


def _source_of(target: Any) -> tuple[str, Mapping[str, bytes] | None]:
    """(fingerprint, files to send) of the code of a class or function."""
    if _is_by_value(target):
        return hashlib.sha256("\n".join(_parts(target, set())).encode()).hexdigest(), None
    module = target.__module__
    if (files := _sent_files(module)) is not None:
        return _digest(files), files
    file = Path(sys.modules[module].__file__ or "")
    root = file.parents[module.count(".") + (file.name == "__init__.py")]
    files = _sources(module, root, within=module.partition(".")[0] if _is_installed(file) else None)
    code = _digest(files)
    _imported.setdefault(module, code)
    return code, None if _is_installed(file) else files


def _sent_files(module: str) -> Mapping[str, bytes] | None:
    """The files of a module that was imported from memory; None for others."""
    loader = getattr(getattr(sys.modules.get(module), "__spec__", None), "loader", None)
    return loader.files if isinstance(loader, _SentModules) else None


def _digest(files: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for path, source in sorted(files.items()):
        found.update(f"{path}\0{len(source)}\0".encode() + source)
    return found.hexdigest()


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    """The source of a class or function of a notebook or script, and of what it names there.

    Of other values it names, those of plain types; a module by its name.
    """
    if id(value) in seen:
        return
    seen.add(id(value))
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        yield type(value).__name__
        if inspect.ismodule(value):
            yield value.__name__
        elif isinstance(value, _PLAIN):
            yield repr(value)
        return
    if not _is_by_value(value):
        yield f"{value.__module__}:{value.__qualname__}"
        return
    functions = [one for one in vars(value).values() if inspect.isfunction(one)] if inspect.isclass(value) else [value]
    try:
        yield inspect.getsource(value)
    except (OSError, TypeError):
        yield from (f"{one.__name__} {one.__code__.co_code!r} {one.__code__.co_consts!r}" for one in functions)
    for function in functions:
        named = inspect.getclosurevars(function)
        for name, one in sorted({**named.globals, **named.nonlocals}.items()):
            yield name
            yield from _parts(one, seen)


@cache
def _installed_folders() -> tuple[str, ...]:
    return tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _is_installed(file: Path) -> bool:
    return "site-packages" in file.parts or any(file.is_relative_to(folder) for folder in _installed_folders())


def _module_file(root: Path, module: str) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((one for one in (path / "__init__.py", path.parent / f"{path.name}.py") if one.is_file()), None)


def _sources(module: str, root: Path, within: str | None = None) -> dict[str, bytes]:
    """Path below `root` -> source of a module, and of all modules below `root` that it imports.

    within: package that is followed alone; default: all but raymill.
    """
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        parts = waiting.pop().split(".")
        if parts[0] == "raymill" or within not in (None, parts[0]):
            continue
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            file = _module_file(root, name)
            if file is None or (path := file.relative_to(root).as_posix()) in found:
                continue
            found[path] = file.read_bytes()
            waiting += _imported_by(found[path], name if file.name == "__init__.py" else name.rpartition(".")[0])
    return found


def _imported_by(source: bytes, package: str) -> Iterator[str]:
    """The names in import statements: modules, or what is imported from them."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{one.name}".lstrip(".") for one in node.names)


def _modules_of(files: Mapping[str, bytes]) -> list[str]:
    return [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files]


# --- settings


def load_plugin(kind: PluginKind, target: Any, use: str, settings: Mapping[str, Any]) -> Plugin:
    """The plug-in of a class or function, with its settings validated.

    Raises:
        ConfigError: it is no plug-in of this kind, or a setting is unknown, missing or wrong.
    """
    is_class = inspect.isclass(target)
    if not is_class and not inspect.isfunction(target):
        raise ConfigError(f"{use}: is {type(target).__name__}; wanted {kind.wanted}")
    if is_class and not any(callable(getattr(target, name, None)) for name in kind.methods):
        raise ConfigError(f"{use}: is a class without {' or '.join(kind.methods)}; wanted {kind.wanted}")
    if target.__name__ == "<lambda>":
        raise ConfigError(f"{use}: is a lambda, which has no name; wanted {kind.wanted}. Define it with `def`")
    model = _model_of(kind, target, use)
    try:
        validated = model.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError("; ".join(_mistake(use, model, one) for one in error.errors())) from error
    arguments = {name: getattr(validated, name) for name in type(validated).model_fields}
    try:
        plain = validated.model_dump(mode="json")
    except PydanticSerializationError as error:
        raise ConfigError(
            f"{use}: a setting is no plain value ({error}); wanted text, numbers, lists and groups"
        ) from error
    with _lock:
        code, files = _source_of(target)
    plugin = Plugin(use, code, plain, arguments, target, files)
    try:
        plugin.make()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{use}: making it with {plain} raised {shown_error(error)}") from error
    return plugin


def _model_of(kind: PluginKind, target: Any, use: str) -> type[BaseModel]:
    """A pydantic model of the settings, which refuses others."""
    if inspect.isclass(target) and issubclass(target, BaseModel):
        return type(target.__name__, (target,), {"model_config": ConfigDict(extra="forbid"), "__module__": __name__})
    has_own_init = "__init__" in vars(target) or dataclasses.is_dataclass(target) if inspect.isclass(target) else True
    try:
        parameters = list(inspect.signature(target).parameters.values())
        owner = target if not inspect.isclass(target) or dataclasses.is_dataclass(target) else target.__init__
        hints = typing.get_type_hints(owner, include_extras=True) if has_own_init else {}
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"{use}: its signature cannot be read ({error})") from error
    if not inspect.isclass(target):
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        count = len(kind.arguments)
        first, parameters = parameters[:count], parameters[count:]
        required = [one.name for one in first if one.kind in positional]
        if len(required) < count:
            raise ConfigError(f"{use}: takes ({', '.join(one.name for one in first)}); wanted {kind.wanted}")
    if unnamed := [
        one.name for one in parameters if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY)
    ]:
        raise ConfigError(f"{use}: has the parameter {unnamed[0]} without a fixed name; wanted named settings")
    fields: dict[str, Any] = {}
    for one in parameters:
        default = ... if one.default is inspect.Parameter.empty else one.default
        if default is ... and not inspect.isclass(target):
            raise ConfigError(
                f"{use}: {one.name} has no default; wanted {kind.wanted}, with defaults for all other parameters, its "
                "settings"
            )
        if one.name.startswith("_") or one.name in _ENTRY_KEYS:
            raise ConfigError(f"{use}: {one.name} cannot be the name of a setting; rename the parameter")
        fields[one.name] = (hints.get(one.name, Any), _default_of(target, one.name, default))
    config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)
    return create_model(target.__name__, __config__=config, **fields)


def _default_of(target: Any, name: str, default: Any) -> Any:
    """A parameter's default. Those of dataclasses may be made by a factory."""
    for one in dataclasses.fields(target) if dataclasses.is_dataclass(target) else ():
        if one.name == name and one.default_factory is not dataclasses.MISSING:
            return Field(default_factory=one.default_factory)
    return default


def _mistake(use: str, model: type[BaseModel], error: Mapping[str, Any]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        known = list(model.model_fields)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{name}: no such setting.{hint} {use} has: {', '.join(known) or 'none'}."
    if error["type"] == "missing":
        return f"{name}: missing, and {use} has no default for it"
    return f"{name}: {error['input']!r:.80} given; wanted {error['msg'].removeprefix('Input should be ')}"


def shown_error(error: BaseException) -> str:
    """Class and message of an exception of a plug-in in one line, without secrets, for messages and records."""
    text = " ".join(redacted(str(error)).split())
    return f"{type(error).__name__}: {text[:_SHOWN_CHARACTERS]}" if text else type(error).__name__


def call(plugin_method: Callable[..., Any], *arguments: Any) -> Any:
    """The result of user code.

    Raises:
        PluginError: it raised an exception, SystemExit included, which would end the worker.
        UserError: it raised this, as the store does for a file that the plug-in reads.
    """
    try:
        return plugin_method(*arguments)
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        raise PluginError(shown_error(error)) from error


def shown_value(value: object) -> str:
    """The first 80 characters of a value that user code returned; its type if it has no text, as a very long number."""
    try:
        return f"{value!r:.80}"
    except Exception:
        return f"a value of type {type(value).__name__}"


class PluginError(Exception):
    """User code raised an exception. The message has its class and message in one line."""
