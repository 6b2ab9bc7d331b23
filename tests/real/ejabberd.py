"""Two real ejabberd nodes in one cluster, on one machine, under one epmd of their own.

``ejabberdctl`` changes to another user and detaches, so a process started by it has no id that a test could hold. The
Erlang VM is therefore started the way that script starts it, and commands are given the way it gives them (module
``ejabberd_ctl`` over Erlang distribution). Distribution, epmd and listeners are bound to loopback.

Up in about 3 s: 1.3 s for both nodes side by side, 0.7 s to join, 0.4 s to register users.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import trio
from waiting import until

from real import programs
from real.programs import DOMAIN, HOST, PASSWORD, Need

_CONFIG: Final = """\
hosts: ["{domain}"]
loglevel: info
log_rotate_size: infinity
listen:
  - port: {port}
    ip: "{host}"
    module: ejabberd_c2s
    starttls: false
{listener}{door}auth_method: internal
auth_password_format: plain
acl: {{local: {{user_regexp: ""}}}}
modules:
  mod_disco: {{}}
  mod_ping: {{}}
  mod_roster: {{}}
  mod_stream_mgmt: {{}}
{modules}{settings}"""

_COOKIE: Final = "cxfr"

_control_numbers: Final = itertools.count(1)
"""Commands may overlap, and two Erlang nodes of one name cannot be up at once."""


class EjabberdNode:
    """One node of the cluster; made and started by :class:`EjabberdCluster`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        env: dict[str, str],
        domain: str,
        *,
        listener: Iterable[str],
        modules: Iterable[str],
        settings: Iterable[str],
        door: str,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.erlang_name = f"{name}@{HOST}"
        self.host = HOST
        self.port = programs.free_port()
        self.domain = domain
        self.log = folder / "ejabberd.log"
        self.process: trio.Process | None = None
        self._output = folder / "output.log"
        self._env = {
            **env,
            "EJABBERD_CONFIG_PATH": str(folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.log),
        }
        config = _CONFIG.format(
            domain=domain,
            port=self.port,
            host=self.host,
            listener="".join(f"    {line}\n" for line in listener),
            door=door,
            modules="".join(f"  {name}: {{}}\n" for name in modules),
            settings="".join(f"{line}\n" for line in settings),
        )
        (folder / "ejabberd.yml").write_text(config, "utf-8")

    async def start(self) -> None:
        """Start and wait until it is up; after a stop it finds its cluster again by itself."""
        async with self._starting():
            self.process = await programs.start(
                [
                    *_erl(self.erlang_name),
                    *("+K", "true", "-noinput", "-mnesia", "dir", f'"{self.folder / "spool"}"', "-s", "ejabberd"),
                ],
                output=self._output,
                env=self._env,
                cwd=self.folder,
            )

    @asynccontextmanager
    async def _starting(self) -> AsyncIterator[None]:
        """The block makes it start: wait until it accepts, and has tables for its users, which comes later."""
        before = self._times_started()
        yield
        process = self.process
        assert process is not None
        await until(lambda: self._times_started() > before or process.poll() is not None, "ejabberd has started")
        await programs.wait_accepting(self.host, self.port, process, self._output, self.log)

    def _times_started(self) -> int:
        return self.log.read_text("utf-8").count("is started in the node") if self.log.exists() else 0

    async def join(self, other: EjabberdNode) -> None:
        """Join its cluster, which starts this node anew. Since ejabberd 24 the command answers before that is done."""
        async with self._starting():
            await self.control("join_cluster", other.erlang_name)
        listed = await other.control("list_cluster")
        assert self.erlang_name in listed, listed

    async def control(self, *command: str) -> str:
        """Give a command as ``ejabberdctl --no-timeout`` does; what it printed. Raises ``AssertionError``."""
        return await _run_erl(
            self._env,
            *("-s", "ejabberd_ctl", "-extra", self.erlang_name, "--no-timeout", *command),
        )

    async def register(self, users: Iterable[str]) -> None:
        """All users in one remote call: starting an Erlang VM for each would take 0.3 s."""
        names = ",".join(f'<<"{user}">>' for user in users)
        printed = await _run_erl(
            self._env,
            "-eval",
            f"io:format(\"~p\",[lists:usort([rpc:call('{self.erlang_name}',ejabberd_auth,try_register,"
            f'[U,<<"{self.domain}">>,<<"{PASSWORD}">>])||U<-[{names}]])]),halt().',
        )
        assert printed.strip() == "[ok]", printed

    async def stop(self) -> None:
        """``ejabberdctl stop``, and wait for its end."""
        await self.control("stop")
        await programs.end(self.process)

    async def terminate(self) -> None:
        """SIGTERM, and wait for its end."""
        await programs.end(self.process)

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()


class EjabberdCluster:
    """``async with EjabberdCluster(folder, users=...) as cluster``: so many joined nodes in ``cluster.nodes``.

    ``doors`` is a further listener for each node, as its configuration has it.
    ``listener`` are further lines of the listener's configuration, ``modules`` further modules, ``settings`` further
    lines of the configuration itself.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: Iterable[str],
        domain: str = DOMAIN,
        size: int = 2,
        listener: Iterable[str] = (),
        modules: Iterable[str] = (),
        settings: Iterable[str] = (),
        doors: Iterable[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.users = list(users)
        self._epmd: trio.Process | None = None
        self._epmd_port = programs.free_port()
        env = {
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_LIBS": _erlang_libraries(),
            "ERL_CRASH_DUMP_BYTES": "0",
            "HOME": str(folder),
        }
        self._env = env
        further = {"listener": tuple(listener), "modules": tuple(modules), "settings": tuple(settings)}
        self.nodes = [
            EjabberdNode(folder / name, name, env, domain, door=door, **further)
            for name, door in zip(("n1", "n2")[:size], [*doors, "", ""], strict=False)
        ]

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._end()

    async def _start(self) -> None:
        output = self.folder / "epmd.log"
        self._epmd = await programs.start(
            ["epmd", "-port", str(self._epmd_port), "-address", HOST], output=output, env=self._env
        )
        await programs.wait_accepting(HOST, self._epmd_port, self._epmd, output)
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(node.start)
        first, *others = self.nodes
        for other in others:
            await other.join(first)
        await first.register(self.users)

    async def _end(self) -> None:
        for node in self.nodes:  # at once: nobody wants the data, and an orderly end takes seconds
            await programs.end(node.process, seconds=0)
        await programs.end(self._epmd)


def _erl(name: str) -> list[str]:
    return [
        *("erl", "-name", name, "-setcookie", _COOKIE, "-start_epmd", "false"),
        *("-kernel", "inet_dist_use_interface", "{127,0,0,1}", "+S", "1"),
    ]


async def _run_erl(env: dict[str, str], *arguments: str) -> str:
    completed = await trio.run_process(
        [*_erl(f"control{next(_control_numbers)}@{HOST}"), "-hidden", "-noinput", *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={**os.environ, **env},
    )
    printed = completed.stdout.decode() + completed.stderr.decode()
    assert completed.returncode == 0, f"{arguments}: {printed}"
    return printed


async def version() -> tuple[int, ...]:
    """Of the ejabberd that is installed, as ``(24, 12)``."""
    ask = "application:load(ejabberd), {ok, V} = application:get_key(ejabberd, vsn), io:format(V), halt()."
    environment = {**os.environ, "ERL_LIBS": _erlang_libraries(), "HOME": "/tmp"}
    done = await trio.run_process(["erl", "-noinput", "-eval", ask], capture_stdout=True, env=environment)
    found = re.match(r"[0-9.]+", done.stdout.decode())
    assert found is not None, done.stdout
    return tuple(int(part) for part in found[0].split("."))


def _erlang_libraries() -> str:
    """Where the distribution keeps ejabberd's own libraries, read from its control script."""
    script = programs.which(Need.EJABBERD)
    assert script is not None
    found = re.search(r"^ERL_LIBS='?([^'\n]+)", Path(script).read_text("utf-8"), re.MULTILINE)
    assert found is not None, f"no ERL_LIBS in {script}"
    return found.group(1)
