//! What a script for the lab is made of, piece by piece.

use provider_lab::script::{Param, Pattern, Piece, Place};
use valetkey::provider::Inject;

/// The same pattern with texts that stand side by side made one, and empty ones left out.
pub(super) fn joined(pattern: Pattern) -> Pattern {
    let mut pieces: Vec<Piece> = Vec::new();
    for piece in pattern.0 {
        match (pieces.last_mut(), piece) {
            (_, Piece::Text(text)) if text.is_empty() => {}
            (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
            (_, piece) => pieces.push(piece),
        }
    }
    Pattern(pieces)
}

/// Whether what is injected is a signature.
pub(super) fn signs(inject: &[Inject]) -> bool {
    inject.iter().any(|inject| matches!(inject, Inject::Oauth1Signature))
}

/// A parameter of the query that is exactly this text.
pub(super) fn text_param(name: &str, value: &str) -> Param {
    Param { place: Place::Query, name: name.to_owned(), value: Pattern::text(value), optional: false }
}

/// A header that is made of these pieces.
pub(super) fn header(name: &str, value: Vec<Piece>) -> Param {
    Param { place: Place::Header, name: name.to_owned(), value: Pattern(value), optional: false }
}
