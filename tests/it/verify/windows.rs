//! Parts of the table, and tables of other kinds.
