"""The Terminal API: one servicer per service. They translate, check who may, and delegate."""
