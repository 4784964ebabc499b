//! The layouts of the pinned maps: by what an agent knows which maps of an earlier one it may take over.
//!
//! A map is known by its name, its version here, and its sizes, which the kernel tells. Equal ones are taken over as they
//! are; a map that differs is made anew, and what the earlier one holds is carried over.

/// The version of the flows' layout: raised when the type or the meaning of [`Flow`](super::Flow) changes.
#[cfg(not(feature = "other-layout"))]
pub const FLOWS: u32 = 1;
/// The version of the flows' layout.
#[cfg(feature = "other-layout")]
pub const FLOWS: u32 = 2;

/// The version of the layout that [`FlowBefore`] has: the one from which flows are carried over.
#[cfg(not(feature = "other-layout-before"))]
pub const FLOWS_BEFORE: u32 = 1;
/// The version of the layout that [`FlowBefore`] has.
#[cfg(feature = "other-layout-before")]
pub const FLOWS_BEFORE: u32 = 2;

/// A flow as the version before this one keeps it; the same type for as long as there is no other version. Each is laid
/// out as the other by [`LayOut`].
#[cfg(not(feature = "other-layout-before"))]
pub type FlowBefore = super::flow::Flow;
/// A flow as the version before this one keeps it.
#[cfg(feature = "other-layout-before")]
pub type FlowBefore = super::other_flow::OtherFlow;

/// What is of one layout becomes what it is of another.
pub trait LayOut<As: 'static> {
    /// Writes it so to its place, field by field: a program has no stack to spare for a copy.
    fn lay_out(&self, place: &mut As);

    /// What it is of the other layout: itself, where the two are one, and otherwise what `copy` makes of it.
    #[inline(always)]
    fn as_laid_out(&'static self, copy: impl FnOnce(&Self) -> &'static As) -> &'static As {
        copy(self)
    }
}

impl<T: Copy + 'static> LayOut<T> for T {
    #[inline(always)]
    fn lay_out(&self, place: &mut T) {
        *place = *self;
    }

    #[inline(always)]
    fn as_laid_out(&'static self, _copy: impl FnOnce(&Self) -> &'static T) -> &'static T {
        self
    }
}

/// The version of a map's layout: raised when its types change, or only what they mean.
#[must_use]
pub fn version(map: &str) -> u32 {
    match map {
        "FLOWS" => FLOWS,
        _ => 1,
    }
}
