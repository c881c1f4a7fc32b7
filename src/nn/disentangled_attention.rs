//! Attention with separate vectors for the content of tokens and for their relative positions.

use crate::data::extent::Extent;
use crate::data::ragged::{Bucket, Sequences};
use crate::nn::attention::{AttentionConfig, attention};
use crate::nn::distances::{self, distance_scores};
use crate::nn::linear::Linear;
use crate::nn::relative_positions::RelativePositions;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::attention::Around;
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::linear;
use tch::{Kind, Tensor};

/// Configuration of a [`DisentangledAttention`].
#[derive(Debug, Clone, Copy)]
pub struct DisentangledConfig {
    pub hidden: i64,
    /// The total width of the heads is `hidden`.
    pub attention: AttentionConfig,
    pub terms: PositionTerms,
    /// Standard deviation of newly initialized weights.
    pub std: f64,
}

/// The terms of a score that depend on the relative position, of which there is one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionTerms {
    /// Whether a query is scored with the key of the position (content to position, c2p).
    pub to_position: bool,
    /// Whether a key is scored with the query of the position (position to content, p2c).
    pub to_content: bool,
    /// Whether the matrices of the content project the positions.
    pub shared: bool,
}

/// Disentangled attention (arXiv 2006.03654, section 3.1). The score of the query at i and the key at j is, times the
/// scale, `q_i k_j + q_i K_(i-j) + Q_(i-j) k_j`: K and Q are projections of the embeddings of relative positions, which
/// all layers share.
#[derive(Debug)]
pub struct DisentangledAttention {
    config: DisentangledConfig,
    relative: RelativePositions,
    qkv: Linear,
    /// Separate projections to K and to Q.
    positions: [Option<Linear>; 2],
    out: Linear,
}

impl DisentangledAttention {
    /// Declares `qkv` `[3 * hidden, hidden]`, `position_key` and `position_query` `[hidden, hidden]` unless they are
    /// shared, and `out` `[hidden, hidden]`.
    pub fn new(b: &mut ParamBuilder, config: DisentangledConfig, relative: &RelativePositions) -> Self {
        let DisentangledConfig { hidden, terms, std, .. } = config;
        let mut own =
            |is_used: bool, name: &str| (is_used && !terms.shared).then(|| Linear::new(b, name, hidden, hidden, std));
        let positions = [own(terms.to_position, "position_key"), own(terms.to_content, "position_query")];
        DisentangledAttention {
            config,
            relative: relative.clone(),
            qkv: Linear::new(b, "qkv", hidden, 3 * hidden, std),
            positions,
            out: Linear::new(b, "out", hidden, hidden, std),
        }
    }

    /// `[T, hidden]` to `[T, hidden]`.
    pub fn forward(&self, ctx: &mut Ctx, x: &Tensor, sequences: &Sequences) -> Tensor {
        let DisentangledConfig { hidden, attention: config, .. } = self.config;
        let qkv = self.qkv.forward(ctx, x).split(hidden, 1);
        let [q, k, v] = [&qkv[0], &qkv[1], &qkv[2]];
        // Half tensors on the CPU are computed in fp32, as attention does with a bias.
        let kind = if linear::on_cpu(x) { Kind::Float } else { x.kind() };
        let [keys, queries] = self.positions(ctx, sequences, kind);
        let of_queries = keys.map(|keys| (q.to_kind(kind), keys));
        let of_keys = queries.map(|queries| (k.to_kind(kind), queries));
        let bias = |bucket: &Bucket| {
            let scores = |(tokens, positions): &(Tensor, Tensor)| distance_scores(&config, bucket, tokens, positions);
            let rows = of_queries.as_ref().map(scores);
            let columns = of_keys.as_ref().map(|side| scores(side).transpose(2, 3));
            rows.into_iter().chain(columns).reduce(|rows, columns| rows + columns).expect("one term at least")
        };
        let attended = attention(ctx, &config, [q, k, v], sequences.buckets(), Some(&bias));
        self.out.forward(ctx, &attended)
    }

    /// The scaled keys and queries of positions, for each distance as [`distance_scores`] takes them.
    fn positions(&self, ctx: &mut Ctx, sequences: &Sequences, kind: Kind) -> [Option<Tensor>; 2] {
        let DisentangledConfig { hidden, attention, terms, .. } = self.config;
        let longest = distances::longest(sequences);
        let embeddings = self.relative.embeddings(ctx, longest);
        let of_distances = self.relative.of_distances(sequences, longest);
        let shared = terms.shared.then(|| self.qkv.forward(ctx, &embeddings).split(hidden, 1));
        let mut vectors = |is_used: bool, term: usize| {
            let vectors = match (&shared, &self.positions[term]) {
                // After the queries come the keys.
                (Some(qkv), _) if is_used => qkv[1 - term].shallow_clone(),
                (None, Some(linear)) => linear.forward(ctx, &embeddings),
                _ => return None,
            };
            let scaled = vectors.to_kind(kind) * attention.scale;
            Some(scaled.index_select(0, &of_distances[term]))
        };
        [vectors(terms.to_position, 0), vectors(terms.to_content, 1)]
    }

    /// Returns the cost of the layer over these sequences; other parts keep its input.
    pub fn cost(&self, how: &ComputeMode, x: &Extent) -> Cost {
        let DisentangledConfig { hidden, attention, terms, .. } = self.config;
        let (hidden, e) = (hidden as f64, if how.widens() { 4.0 } else { how.element() });
        let count = f64::from(u8::from(terms.to_position) + u8::from(terms.to_content));
        let rows = self.relative.count(x.longest);
        let computes = self.relative.computes(how);
        let projected: Cost = match terms.shared {
            true => self.qkv.cost(how, rows, computes),
            false => self.positions.iter().flatten().map(|linear| linear.cost(how, rows, computes)).sum(),
        };
        // The vectors of each distance.
        let by_distance = e * count * 2.0 * x.longest * hidden;
        let by_distance = Cost::op(by_distance, e * count * rows * hidden, 0.0, [e * rows * hidden; 2]);
        // Queries and keys: padded copies, and the tensor of all tokens where a rectangle is a view of it.
        let whole = if how.widens() { count * x.tokens } else { 3.0 * x.tokens };
        let padded = count * x.padded_queries;
        let tokens = e * hidden * (padded + if x.padded_queries < x.queries { whole } else { 0.0 });
        let scores = distances::cost(how, &attention, x, count);
        let kernel = attention.cost(how, x, Around::Biased);
        let parts = [self.qkv.cost(how, x.tokens, false), self.relative.cost(how, x.longest), projected, by_distance];
        let parts = parts.into_iter().chain([Cost::keep(tokens), scores, kernel]);
        parts.chain([self.out.cost(how, x.tokens, true)]).sum()
    }
}
