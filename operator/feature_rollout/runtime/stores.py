"""The databases in use: one store per FlagStore object, made from its Secrets and kept open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from feature_rollout.api.base import InvalidObject
from feature_rollout.api.flagstore import FlagStore, FlagStoreSpec, Pooler, Postgres
from feature_rollout.api.values import KeyReference
from feature_rollout.connectionstring import Access
from feature_rollout.core import reasons
from feature_rollout.core.decision import Trouble
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError, PermissionDenied
from feature_rollout.metrics.reader import SqlReader
from feature_rollout.ports import Problem
from feature_rollout.runtime.inventory import ObjectKey, key_of
from feature_rollout.runtime.objects import API_FORBIDDEN, API_UNAVAILABLE
from feature_rollout.store.config import StoreConfig
from feature_rollout.store.listen import DriftListener
from feature_rollout.store.mapping import mapping_of
from feature_rollout.store.store import PostgresFlagStore
from feature_rollout.store.timing import OnCall

log = logging.getLogger(__name__)

# Secrets are read again and every database is checked this often: a new password is used, and a broken
# one shows on the FlagStore, without a restart and without waiting for a rollout.
CHECK_S = 10.0


@dataclass(frozen=True, slots=True)
class Handle:
    """An open store with its reader, and what they were made from."""

    uid: str
    config: StoreConfig
    pooled: bool
    store: PostgresFlagStore
    reader: SqlReader | None
    listener: DriftListener | None

    async def close(self) -> None:
        if self.listener is not None:
            await self.listener.close()
        await self.store.close()
        if self.reader is not None:
            await self.reader.close()


class Stores:
    """`get` while reconciling, `check_forever` as a task.

    `tell(FlagStore, trouble or None)` is called after each check, `drifted(store, flag)` when somebody else
    has changed a flag and the database says so by itself. `access` is what the operator's settings allow. Databases
    are checked, which may install the bookkeeping, by who leads. `on_call` is as in `PostgresFlagStore`.
    """

    def __init__(
        self,
        api: Api,
        tell: Callable[[Mapping[str, Any], Trouble | None], None],
        drifted: Callable[[ObjectKey, str], None],
        access: Access,
        leads: Callable[[], bool] = lambda: True,
        *,
        on_call: OnCall = lambda _operation, _seconds: None,
    ) -> None:
        self._leads = leads
        self._on_call = on_call
        self._api = api
        self._tell = tell
        self._drifted = drifted
        self._access = access
        self._handles: dict[ObjectKey, Handle] = {}
        self._locks: dict[ObjectKey, asyncio.Lock] = {}
        self._changed = asyncio.Event()

    async def get(self, obj: Mapping[str, Any]) -> Handle:
        """The handle of this FlagStore, connected or not. Raises Problem when there is nothing to connect with.

        The API server is asked only for a store that is not known yet: a revert must not
        need it.
        """
        key = key_of(obj) or ("", "")
        handle = self._handles.get(key)
        if handle is not None and handle.uid == obj["metadata"]["uid"]:
            return handle
        return await self._refresh(key, obj)

    def answer(self) -> bool:
        """Whether any database in use has answered when it was asked last; true where none is in use."""
        return not self._handles or any(handle.store.answers for handle in self._handles.values())

    def wake(self) -> None:
        """Check soon: a FlagStore is new or has changed."""
        self._changed.set()

    async def check_forever(
        self, listed: Callable[[], Iterable[Mapping[str, Any]]], used: Callable[[PostgresFlagStore], bool]
    ) -> None:
        """Look after every FlagStore, until cancelled. One that was deleted is kept open while its guards need it."""
        while True:
            self._changed.clear()
            objects = list(listed())
            await asyncio.gather(*(self._check(obj) for obj in objects))
            known = {key_of(obj) for obj in objects}
            for key in [key for key in self._handles if key not in known and not used(self._handles[key].store)]:
                await self._handles.pop(key).close()
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def open_configs(self) -> list[StoreConfig]:
        """What the open stores are made from: those of two FlagStores on one database may be alike."""
        return [handle.config for handle in self._handles.values()]

    async def close(self) -> None:
        for handle in self._handles.values():
            await handle.close()
        self._handles.clear()

    async def _check(self, obj: Mapping[str, Any]) -> None:
        try:
            handle = await self._refresh(key_of(obj) or ("", ""), obj)
            if not self._leads():
                return
            await handle.store.check()
        except Problem as problem:
            if problem.reason != API_UNAVAILABLE:
                self._tell(obj, Trouble(problem.reason, problem.message, problem.stalled))
        else:
            self._tell(obj, None)

    async def _refresh(self, key: ObjectKey, obj: Mapping[str, Any]) -> Handle:
        """Read the Secrets; make the store anew when they, or the FlagStore, say something else than before."""
        async with self._locks.setdefault(key, asyncio.Lock()):
            try:
                spec = FlagStore.parse(obj).spec
            except InvalidObject as error:
                raise Problem(reasons.INVALID_PLAN, f"FlagStore {key[1]}: {error}") from None
            config = await self._config(key[0], spec)
            pooled = spec.postgres.pooler is Pooler.TRANSACTION
            old = self._handles.get(key)
            uid = obj["metadata"]["uid"]
            if old is not None and (old.uid, old.config, old.pooled) == (uid, config, pooled):
                return old
            reader = None
            if config.reader_uri:
                reader = SqlReader(config.reader_uri, transaction_pooler=pooled, access=config.access)
            # A pooler in transaction mode gives the connection to somebody else after each transaction.
            listener = None if pooled else DriftListener(config, lambda flag: self._drifted(key, flag))
            store = PostgresFlagStore(config, self._on_call)
            handle = self._handles[key] = Handle(uid, config, pooled, store, reader, listener)
            if listener is not None:
                listener.start()
            if old is not None:
                log.info("FlagStore %s/%s is opened anew", *key)
                await old.close()
            return handle

    async def _config(self, namespace: str, spec: FlagStoreSpec) -> StoreConfig:
        postgres = spec.postgres
        uris = [
            await self._secret(namespace, role.secret_key_ref) if role else None
            for role in (postgres.writer, postgres.reader, postgres.owner)
        ]
        access = replace(self._access, authority=await self._authority(namespace, postgres))
        mapping = mapping_of(spec.table)
        return StoreConfig(uris[0] or "", uris[1], uris[2], mapping, spec.notify_channel, access)

    async def _authority(self, namespace: str, postgres: Postgres) -> str | None:
        """The certificates that the database server's must be signed by, in PEM."""
        source = postgres.ca_certificate
        if source is None:
            return None
        if source.config_map_key_ref is not None:
            return await self._text("ConfigMap", self._api.config_map, namespace, source.config_map_key_ref)
        return await self._secret(namespace, source.secret_key_ref) if source.secret_key_ref else None

    async def _secret(self, namespace: str, reference: KeyReference) -> str:
        return await self._text("Secret", self._api.secret, namespace, reference)

    async def _text(
        self,
        kind: str,
        read: Callable[[str, str], Awaitable[Mapping[str, str] | None]],
        namespace: str,
        reference: KeyReference,
    ) -> str:
        missing = reasons.SECRET_NOT_FOUND if kind == "Secret" else reasons.CONFIG_MAP_NOT_FOUND
        name, key = reference.name, reference.key
        try:
            found = await read(namespace, name)
        except PermissionDenied:
            message = f"the operator may not read {kind} {name} in namespace {namespace}: grant it `get` on it"
            raise Problem(API_FORBIDDEN, message) from None
        except ApiError as error:
            raise Problem(API_UNAVAILABLE, f"{kind} {name} could not be read: {error}", stalled=False) from None
        if found is None:
            raise Problem(missing, f"there is no {kind} {name} in namespace {namespace}: create it")
        if not found.get(key):
            raise Problem(missing, f"{kind} {name} has no text under key {key}: add it")
        return found[key]
