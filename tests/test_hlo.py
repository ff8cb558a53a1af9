"""Collectives are found in a program's text, as often as loops run them, with their bytes and groups."""

from jam_jax.hlo import Collective, collectives

TEXT = """HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%wrapped (p: bf16[64,2]) -> bf16[16,2] {
  %p = bf16[64,2]{1,0} parameter(0)
  ROOT %rs = bf16[16,2]{1,0} reduce-scatter(%p), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%sum
}

%inner (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = bf16[16,2]{1,0} fusion(%s), kind=kLoop, calls=%sum
  %ag = (bf16[16,2]{1,0}, bf16[64,2]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  ROOT %t = (s32[], f32[8]) tuple(%s, %x)
}

%condition (s: (s32[], f32[8])) -> pred[] {
  %c = s32[] constant(5)
  ROOT %l = pred[] compare(%s, %c), direction=LT
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %p0 = f32[8]{0} parameter(0)
  %w = (s32[], f32[8]) while(%p0), condition=%condition, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %v = (s32[], f32[8]) while(%p0), condition=%condition, body=%inner
  %rs = ((bf16[64,2]), bf16[16,2]) async-start(%p0), calls=%wrapped
  %rt = ((bf16[64,2]), bf16[16,2]) reduce-scatter-start(%p0), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%sum
  %at = ((bf16[64,2]), bf16[64,2]) all-to-all-start(%p0), replica_groups=mesh['a'=2,'b'=4] {'a'}, dimensions={0}
  ROOT %ar = f32[8]{0} all-reduce(%p0), replica_groups={{0,1},{2,3}}, to_apply=%sum
}
"""


def test_a_program_by_hand() -> None:
    strided = ((0, 2, 4, 6), (1, 3, 5, 7))
    assert collectives(TEXT) == [
        Collective("all-gather", 64 * 2 * 2, 3, strided),
        Collective("all-gather", 64 * 2 * 2, 5, strided),
        Collective("reduce-scatter", 64 * 2 * 2, 1, ((0, 1, 2, 3), (4, 5, 6, 7))),
        Collective("reduce-scatter", 64 * 2 * 2, 1, ((0, 1, 2, 3), (4, 5, 6, 7))),
        Collective("all-to-all", 64 * 2 * 2, 1, ((0, 4), (1, 5), (2, 6), (3, 7))),
        Collective("all-reduce", 32, 1, ((0, 1), (2, 3))),
    ]
