// The ordered-integer view of floating-point values; vectors and scalars share it.
#pragma once

#include "macros.h"

#include <cstdint>
#include <limits>

namespace cornernet_d2 {

// The least Bits: below every key, where a scan starts.
template <class Bits>
constexpr Bits kLowest = std::numeric_limits<Bits>::min();

// Keys. Comparing floats as signed integers of the same width lets one `max` instruction do what
// needs a compare and a blend each for NaN and for the maximum:
//   key(a) < key(b)  <=>  a < b,  with -0 < +0 and every NaN above +inf (IEEE 754-2019 maximum).
// A scan starts at kLowest, which is no value's key.
// Format supplies Bits (signed), kInfinity, kQuietNaN and the Accumulator type of gradients.
template <class Format, class V>
CORNERNET_INLINE V to_key(V bits) {
  using Bits = typename Format::Bits;
  constexpr Bits kMagnitude = ~kLowest<Bits>;
  const V magnitude = bits & kMagnitude;
  const V key = bits ^ ((bits >> (8 * sizeof(Bits) - 1)) & kMagnitude);
  return magnitude > Format::kInfinity ? (key & Bits(0)) + Format::kQuietNaN : key;
}

template <class Format, class V>
CORNERNET_INLINE V from_key(V key) {
  using Bits = typename Format::Bits;
  return key ^ ((key >> (8 * sizeof(Bits) - 1)) & Bits(~kLowest<Bits>));
}

// For comparisons that decide ties, where -0 (key -1) equals +0 (key 0).
template <class V>
CORNERNET_INLINE V merge_zeros(V key) {
  return key == -1 ? key & 0 : key;
}

}  // namespace cornernet_d2
