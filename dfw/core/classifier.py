# SPDX-License-Identifier: Apache-2.0
"""The classifier: address sets by number, and rule sets over them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from dfw.core.binding import CoreError, array, ffi, lib
from dfw.layout import KeyArray, RangeArray, RuleArray, U32Array

_CLS_ERRORS: Final = {
    -1: "an address range whose end is before its beginning, or of an unknown family",
    -2: "a rule with a field out of its bounds, or a reference to a set that is not in the list",
    -3: "a range to be removed was never a member",
    -4: "more entries than one rule set may have (200,000)",
}


def _checked(code: int) -> None:
    if code != 0:
        raise CoreError(_CLS_ERRORS.get(code, f"error {code}"))


class Ruleset:
    """A built rule set: immutable, shared by content. Holds one reference until `release`."""

    def __init__(self, classifier: Classifier, handle: Any, entries: int) -> None:
        self._classifier = classifier
        self.handle = handle
        self.entries = entries

    def lookup(self, keys: KeyArray, batch: int = 256) -> U32Array:
        """Index of the first matching entry for each key; dfw.layout.NO_MATCH for none."""
        return self.lookup_timed(keys, batch)[0]

    def lookup_timed(self, keys: KeyArray, batch: int = 256) -> tuple[U32Array, int]:
        """As `lookup`, with the nanoseconds that the core took."""
        found = np.empty(len(keys), dtype=np.uint32)
        spent = lib.pal_cls_lookup(
            self._classifier.handle,
            self.handle,
            array(keys, "pal_key *"),
            len(keys),
            batch,
            array(found, "uint32_t *"),
        )
        return found, int(spent)

    def replace(self, at: int, rule: RuleArray, refs: U32Array) -> Ruleset:
        """The rule set with entry `at` replaced by the one entry of `rule`; this one stays as it is."""
        out = ffi.new("pal_ruleset **")
        _checked(
            lib.pal_cls_ruleset_replace(
                self._classifier.handle,
                self.handle,
                at,
                array(rule, "pal_rule *"),
                array(refs, "uint32_t *"),
                len(refs),
                out,
            )
        )
        return Ruleset(self._classifier, out[0], self.entries)

    @property
    def bytes(self) -> int:
        """Memory, with the rows it uses (rows shared with other rule sets counted in full)."""
        return int(lib.pal_cls_ruleset_bytes(self.handle))

    def shared(self) -> Ruleset:
        """The same rule set with a reference of its own, for a further filter. Nothing is built."""
        lib.pal_cls_ruleset_hold(self.handle)
        return Ruleset(self._classifier, self.handle, self.entries)

    def release(self) -> None:
        """Give the reference back. The object must not be used afterwards."""
        lib.pal_cls_ruleset_release(self._classifier.handle, self.handle)
        self.handle = ffi.NULL


class Classifier:
    """Address sets by number and rule sets over them. `engine`: its classifier instead of one of our own."""

    def __init__(self, engine: Any = None) -> None:
        self._owned = engine is not None
        if engine is None:
            self.handle = ffi.gc(lib.pal_cls_new(), lib.pal_cls_free)
        else:
            self.handle = lib.pal_engine_classifier(engine)
        if self.handle == ffi.NULL:
            raise MemoryError("no memory for a classifier")

    def put_set(self, set_id: int, ranges: RangeArray) -> None:
        """Define a set or replace its members. Staged until `commit` (or the engine's)."""
        _checked(lib.pal_cls_set_put(self.handle, set_id, array(ranges, "pal_range *"), len(ranges)))

    def change_set(self, set_id: int, add: RangeArray, remove: RangeArray) -> None:
        """Remove, then add, ranges of a set. Staged until `commit`."""
        _checked(
            lib.pal_cls_set_change(
                self.handle,
                set_id,
                array(add, "pal_range *"),
                len(add),
                array(remove, "pal_range *"),
                len(remove),
            )
        )

    def commit(self) -> None:
        """Put what was staged in force for look-ups, in one step.

        Raises CoreError: an engine's is put in force by the engine's commit, together with rules.
        """
        if self._owned:
            raise CoreError("an engine's sets are committed by its engine, together with its rules")
        lib.pal_cls_commit(self.handle)

    def build(self, rules: RuleArray, refs: U32Array) -> Ruleset:
        """The rule set of these entries, in order. Commits staged sets. Raises CoreError."""
        self.commit()
        return self.build_staged(rules, refs)

    def build_staged(self, rules: RuleArray, refs: U32Array) -> Ruleset:
        """As `build`, leaving staged sets staged: the engine's commit puts both in force together."""
        out = ffi.new("pal_ruleset **")
        _checked(
            lib.pal_cls_ruleset_build(
                self.handle, array(rules, "pal_rule *"), len(rules), array(refs, "uint32_t *"), len(refs), out
            )
        )
        return Ruleset(self, out[0], len(rules))

    @property
    def bytes(self) -> int:
        """Memory of everything: sets, classes, rule sets."""
        return int(lib.pal_cls_bytes(self.handle))
