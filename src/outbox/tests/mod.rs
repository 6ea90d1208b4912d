mod columns;
mod columns_by_name;
mod header_styles;
mod router;
mod rules;
mod statements;
