"""What people read: names, tables, figures, cards, pages and the dashboard."""
