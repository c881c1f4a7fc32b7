//! Randomness as a pure function: keys are hashes of coordinates, never the state of a global generator.

use std::f64::consts::TAU;

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection that mixes well.
pub fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns a key from a seed and coordinates, such as (step, micro-batch, block, rank).
pub fn key(seed: u64, parts: &[u64]) -> u64 {
    parts.iter().fold(mix(seed), |key, &part| mix(key ^ mix(part)))
}

/// FNV-1a of a name, 64 bits.
pub fn hash_name(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Returns `n` samples of the normal distribution with mean 0 (Box and Muller), the same on every platform up to libm.
pub fn normal(key: u64, n: usize, std: f64) -> Vec<f32> {
    let uniform = |i: u64| (mix(key.wrapping_add(mix(i))) >> 11) as f64 / (1u64 << 53) as f64;
    (0..n as u64)
        .map(|i| {
            // 1 - u lies in (0, 1]: its logarithm is finite.
            let radius = (-2.0 * (1.0 - uniform(2 * i)).ln()).sqrt();
            (std * radius * (TAU * uniform(2 * i + 1)).cos()) as f32
        })
        .collect()
}

/// Returns `n` samples of the uniform distribution over `[-bound, bound)`, the same on every platform.
pub fn uniform(key: u64, n: usize, bound: f64) -> Vec<f32> {
    let unit = |i: u64| (mix(key.wrapping_add(mix(i))) >> 11) as f64 / (1u64 << 53) as f64;
    (0..n as u64).map(|i| (bound * (2.0 * unit(i) - 1.0)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_has_the_moments_asked_for() {
        let x = normal(7, 100_000, 0.02);
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 3e-4, "mean {mean}");
        assert!((var.sqrt() / 0.02 - 1.0).abs() < 0.02, "std {}", var.sqrt());
        assert_eq!(x[..100], normal(7, 100, 0.02)[..]);
        assert_ne!(x[..100], normal(8, 100, 0.02)[..]);
    }

    #[test]
    fn uniform_has_its_bounds_and_moments() {
        let x = uniform(7, 100_000, 0.25);
        assert!(x.iter().all(|v| v.abs() <= 0.25));
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 2e-3, "mean {mean}");
        assert!((var * 12.0 / 0.25 - 1.0).abs() < 0.02, "variance {var}");
        assert_ne!(x[..100], uniform(8, 100, 0.25)[..]);
    }

    #[test]
    fn keys_depend_on_every_part_and_its_place() {
        let base = key(1, &[2, 3]);
        for other in [key(2, &[2, 3]), key(1, &[3, 2]), key(1, &[2, 4]), key(1, &[2])] {
            assert_ne!(base, other);
        }
    }
}
