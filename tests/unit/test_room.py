"""What a server must have free for all databases of a split that it holds."""

from __future__ import annotations

from toolkit.room import Room, enough_room


def room(where: str, server: str = "a", *, writers: int = 1, **more: int) -> Room:
    there = {"slots": 10, "slots_taken": 0, "senders": 10, "origins": 10, "origins_taken": 0}
    return Room(where, writers, "max_active_replication_origins", server, where, **(there | more))


def missing(*rooms: Room) -> set[str]:
    return {need.need for need in enough_room(rooms) if not need.ok}


def test_databases_on_one_server_need_room_for_all() -> None:
    apart = [room("source", "s", writers=9), *(room(f"service {n}", f"{n}") for n in range(9))]
    assert missing(*apart) == set()
    together = [room("source", "s", writers=9), *(room(f"service {n}", "t") for n in range(9))]
    assert missing(*together) == set()
    one_more = [room("source", "s", writers=10), *(room(f"service {n}", "t") for n in range(10))]
    assert missing(*one_more) == {
        "source: replication origins",
        "service 0 and 9 more on its server: replication slots",
        "service 0 and 9 more on its server: WAL senders",
        "service 0 and 9 more on its server: replication origins",
    }


def test_what_others_have_taken_counts_and_the_remedy_leaves_it_to_them() -> None:
    (slots,) = (
        need for need in enough_room([room("source", slots=4, slots_taken=3)]) if not need.ok
    )
    assert slots.observed == "max_replication_slots = 4, of which 3 are taken; 2 are needed"
    assert slots.remedy.startswith("set max_replication_slots = 5 for source")
