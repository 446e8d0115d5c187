"""A data set's profiles: of items from their own text, of users from what they like in training, as far as they are missing.

What is to be written is sorted by id and cut into batches before the first call; each batch is one commit, so that whatever
ends the process, or the endpoint, takes the calls under way and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from braidrec.data.dataset import Dataset
from braidrec.data.training import TrainingPart
from braidrec.errors import KnowledgeError
from braidrec.knowledge.profiles.answers import Usage
from braidrec.knowledge.profiles.store import Profile, ProfileStore
from braidrec.knowledge.profiles.writer import Kind, Liked, Outlook, ProfileWriter, Question
from braidrec.knowledge.texts import ItemTexts, as_words
from braidrec.progress import progress

_ENOUGH = 4  # answers of which one should fit, else nobody pays for more


@dataclass(frozen=True)
class Written:
    """What was done for one kind; ``written + failed + unchanged + nothing`` are all there are.

    failed: whose answer did not fit, twice, with those of earlier times    first: the first of these, and why
    nothing: whom nothing can be written of: without text, or without an item in training
    """

    kind: Kind
    written: int
    failed: int
    unchanged: int
    nothing: int
    first: str
    usage: Usage

    def lines(self) -> list[str]:
        found = [f"{self.kind} profiles: {self.written:,} written, {self.unchanged:,} unchanged"]
        if self.failed:
            stand_in = "the catalogue's text is read there" if self.kind == "item" else "they have no vector of their own"
            found.append(
                f"{self.kind} profiles: {self.failed:,} failed (first: {self.first}), so {stand_in}; --again asks for them anew"
            )
        if self.nothing:
            whom = f"{self.nothing:,} {self.kind}{'s' * (self.nothing != 1)}"
            what = "text" if self.kind == "item" else "an item with text in training"
            found.append(f"nothing is written of {whom} without {what}")
        return found


@dataclass(frozen=True)
class Profiles:
    """rendered: of each item what the catalogue says    again: ask once more for those that failed"""

    dataset: Dataset
    writer: ProfileWriter
    store: ProfileStore
    rendered: ItemTexts
    again: bool = False

    def outlook(self) -> Outlook | None:
        """What is left to write; None for nothing.  Raises KnowledgeError above ``max_cost``."""
        items, stored = self._items(), self.store.read("item")
        left = self._left(items, stored)
        known = {id: profile.text for id, profile in stored.items() if id in items}
        unknown = "x" * self.writer.config.told_characters
        users = self._users(known | dict.fromkeys(left, unknown))
        questions = [items[id][0] for id in left] + [users[id][0] for id in self._left(users, self.store.read("user"))]
        return self.writer.outlook(questions) if questions else None

    def changed(self) -> list[str]:
        """Items whose profile was written from another text than they have now, sorted."""
        stored = self.store.read("item")
        return [id for id in self._left(self._items(), stored) if id in stored]

    def people(self) -> list[str | None]:
        """Of each user the profile that was written from what they like in training now; None without one."""
        stored, part = self.store.read("user"), TrainingPart(self.dataset)
        owners = [(stored.get(id), row) for row, id in enumerate(self.dataset.user_ids, start=1)]
        return [None if own is None or own.part != part.digest(row) else own.text for own, row in owners]

    def write(self, tell: Callable[[str], None]) -> list[Written]:
        """Raises KnowledgeError where the endpoint fails, and where none of its first answers fits."""
        with self.store.held(tell):
            done = [self._write("item", self._items(), self.dataset.num_items)]
            if self.writer.config.users:
                known = {id: profile.text for id, profile in self.store.read("item").items()}
                done.append(self._write("user", self._users(known), self.dataset.num_users))
        return done

    def _write(self, kind: Kind, wanted: Mapping[str, tuple[Question, str]], whole: int) -> Written:
        stored = self.store.read(kind)
        left, usage = self._left(wanted, stored), Usage()
        fits, size = any(each.text for each in stored.values()), self.writer.config.batch_calls
        held: list[Profile] = []  # back until one of them fits
        with progress(f"writing {kind} profiles", len(left), "profiles") as advance:
            for start in range(0, len(left), size):
                batch = left[start : start + size]
                answers, trouble = self.writer.answers([wanted[id][0] for id in batch], advance)
                given = [(id, answer) for id, answer in zip(batch, answers, strict=True) if answer is not None]
                held += [
                    Profile(
                        id,
                        wanted[id][0].source,
                        wanted[id][1],
                        answer.text,
                        answer.failure,
                        answer.usage.read,
                        answer.usage.written,
                    )
                    for id, answer in given
                ]
                usage = sum((answer.usage for _, answer in given), usage)
                fits = fits or any(each.text for each in held)
                if not fits and len(held) >= _ENOUGH:
                    raise KnowledgeError(
                        f"{self.writer.config.label}: none of the first {len(held):,} answers is a profile (first: {kind} "
                        f"'{held[0].id}': {held[0].failure}); none was kept. Look at the model and its settings, then run "
                        "the same command again"
                    )
                if fits or trouble is not None or start + size >= len(left):
                    self.store.put(kind, held)
                    stored |= {each.id: each for each in held}
                    held = []
                if trouble is not None:
                    raise trouble
        failed = [id for id in sorted(wanted) if stored[id].failure]
        return Written(
            kind,
            written=sum(bool(stored[id].text) for id in left),
            failed=len(failed),
            unchanged=len(wanted) - len(failed) - sum(bool(stored[id].text) for id in left),
            nothing=whole - len(wanted),
            first=f"'{failed[0]}': {stored[failed[0]].failure}" if failed else "",
            usage=usage,
        )

    def _items(self) -> dict[str, tuple[Question, str]]:
        """Of each item with text, what is asked."""
        pairs = zip(self.rendered.ids, self.rendered.texts, strict=True)
        return {id: (self.writer.about_item(text), "") for id, text in pairs if text}

    def _users(self, profiles: Mapping[str, str]) -> dict[str, tuple[Question, str]]:
        """Of each user who likes an item with text in training, what is asked, and the digest of that part.

        profiles: of items, "" where one has none
        """
        if not self.writer.config.users:
            return {}
        part, ids = TrainingPart(self.dataset), self.dataset.item_ids
        titles = [as_words(value) for value in self.dataset.items[self.dataset.schema.text[0]].to_list()]
        found = {}
        for row, id in enumerate(self.dataset.user_ids, start=1):
            liked = [
                Liked(title or "", profiles.get(ids[item - 1], ""))
                for item in part.items(row).tolist()
                if (title := titles[item - 1]) or profiles.get(ids[item - 1])
            ]
            if liked:
                found[id] = (self.writer.about_user(liked), part.digest(row))
        return found

    def _left(self, wanted: Mapping[str, tuple[Question, str]], stored: Mapping[str, Profile]) -> list[str]:
        """Whose profile is missing, or was written from something else, sorted."""

        def stands(id: str) -> bool:
            own, (question, part) = stored.get(id), wanted[id]
            return own is not None and (own.source, own.part) == (question.source, part) and not (self.again and own.failure)

        return sorted(id for id in wanted if not stands(id))
