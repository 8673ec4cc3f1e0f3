"""Training and evaluation material: sharp photographs, blur synthesis, pairs of blurred and sharp files."""
