"""Counterparts of bones: every joint has one, left stays left, and parts follow the skeleton."""

from __future__ import annotations

from body_models import anny, body_pairs, smplx


def test_every_joint_has_a_bone_of_its_own(load_anny):
    bones = load_anny().labels.bones
    assert set(body_pairs.ANNY_BONES) == set(smplx.JOINTS)
    assert set(body_pairs.ANNY_BONES.values()) <= set(bones)
    assert len(set(body_pairs.ANNY_BONES.values())) == len(smplx.JOINTS)
    for joint, bone in body_pairs.ANNY_BONES.items():
        if joint.startswith(("left_", "right_")):
            assert bone.endswith(".L" if joint.startswith("left") else ".R")


def test_a_joint_below_another_is_a_bone_below_its_bone(load_anny):
    """The hierarchies agree: the counterpart of a joint's parent is among the ancestors of its own counterpart."""
    labels: anny.Labels = load_anny().labels
    parents = {bone: labels.bones[p] if p >= 0 else "" for bone, p in zip(labels.bones, labels.parents)}
    smplx_parents = dict(zip(smplx.JOINTS, (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)))
    for joint, parent in smplx_parents.items():
        if parent < 0:
            continue
        bone = body_pairs.ANNY_BONES[joint]
        above = set()
        while bone:
            bone = parents[bone]
            above.add(bone)
        assert body_pairs.ANNY_BONES[smplx.JOINTS[parent]] in above, joint


def test_every_bone_belongs_to_a_part(load_anny):
    labels = load_anny().labels
    parts = dict(zip(labels.bones, body_pairs.parts(labels.bones, labels.parents)))
    assert set(parts.values()) <= set(smplx.JOINTS)
    assert parts["lowerarm02.L"] == "left_elbow" and parts["metacarpal2.R"] == "right_wrist"
    assert parts["toe4-2.R"] == "right_foot" and parts["oris03.L"] == "head" and parts["spine04"] == "spine1"
