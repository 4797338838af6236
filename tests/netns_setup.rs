//! netns-setup from outside.
